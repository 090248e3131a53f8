"""Domains of URLs, lists of them, and how dense each is in personal data."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SECOND_LEVEL = frozenset("ac co com edu gob gov gouv go id info mil ne net nom or org sch web".split())
_HOSTED = frozenset(
    "blogspot github gitlab wordpress tumblr weebly wixsite netlify herokuapp livejournal typepad substack medium".split()
)
"""Below these, each name is somebody's own site."""
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def host(url: str) -> str:
    """The host of a URL in lower case, empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def registered_domain(url: str) -> str:
    """The part of a host that somebody registered: example.co.uk of www.example.co.uk. By a rule (a country's two letters
    after a usual second level; sites hosted under names of their own), not by the public suffix list, which changes daily."""
    labels = host(url).split(".")
    if len(labels) <= 2 or labels[-1].isdigit():
        return ".".join(labels)
    long = (len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL) or labels[-2] in _HOSTED
    return ".".join(labels[-3:] if long else labels[-2:])


class DomainLists:
    """Named lists of domains; a listed domain stands for everything below it."""

    def __init__(self, paths: Mapping[str, str]):
        self._lists = {name: read_domains(path) for name, path in paths.items()}

    def listed(self, url: str) -> tuple[str, str] | None:
        """The first list that has the URL's host, and the domain it has; None if there is none."""
        labels = host(url).split(".")
        for name, domains in self._lists.items():
            for start in range(len(labels)):
                if (domain := ".".join(labels[start:])) in domains:
                    return name, domain
        return None


def read_domains(path: str) -> frozenset[str]:
    """One domain a line, or the lines of a hosts file; `#` begins a comment.

    Raises: FileNotFoundError; ValueError for a line that is no domain.
    """
    opened = gzip.open if str(path).endswith(".gz") else open
    domains = set()
    with opened(Path(path).expanduser(), "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            words = line.split("#")[0].split()
            if not words:
                continue
            name = words[-1].lower().removeprefix("*.").removeprefix(".").rstrip(".")
            if not name.isascii():
                name = name.encode("idna").decode()
            if not _NAME.fullmatch(name):
                raise ValueError(f"{path}:{number}: {words[-1]!r} is no domain; write one a line, such as example.com")
            domains.add(name)
    return frozenset(domains)


@dataclass(frozen=True, kw_only=True)
class DomainDensity:
    """Which domains hold too much personal data, by our own count."""

    max_items_per_1000_words: float = 5.0
    """Not printed; ours."""
    min_documents: int = 20
    """Of a domain; fewer say little about it."""

    def too_dense(self, totals: Mapping[str, tuple[int, int, int]]) -> dict[str, float]:
        """Of domain -> (documents, words, items): those above, with their items per 1,000 words."""
        dense = {}
        for domain, (documents, words, items) in sorted(totals.items()):
            if documents >= self.min_documents and (density := 1000 * items / max(1, words)) > self.max_items_per_1000_words:
                dense[domain] = density
        return dense

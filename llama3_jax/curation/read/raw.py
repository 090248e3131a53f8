"""What a reader yields: documents as they were found, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

REASONS = {
    "bad_encoding": "the content encoding of HTTP is damaged; value: which, and what is wrong",
    "bad_json": "a line is not JSON; value: the error",
    "bad_length": "a WARC record is longer or shorter than it says; value: the Content-Length it says",
    "bad_record": "a record is damaged or is none; value: what is wrong",
    "cut_short": "the file ends, or cannot be read further, inside this; value: the error",
    "expands_too_much": "beyond `max_expansion`; value: bytes made of one byte",
    "generated": "source code that a program wrote; value: the words that say it",
    "http_status": "the server gave no page; value: the status",
    "minified": "source code without lines; value: the mean length of a line",
    "no_text_field": "a record has neither `text` nor `html`; value: the fields it has",
    "not_text": "neither HTML nor text; value: what it is",
    "too_big": "beyond `max_record_bytes`; value: bytes, at least",
    "too_deep": "beyond `max_nesting`; value: elements inside one another",
    "unknown_encoding": "an HTTP content encoding that cannot be taken off; value: its name",
}
"""Every reason of a `Skipped`."""


class Raw(NamedTuple):
    """A document as it was found."""

    id: str
    url: str
    """Empty where unknown, as the following ones."""
    crawl_time: str
    """ISO 8601, UTC."""
    language: str
    license: str
    body: bytes | str
    """bytes: HTML, to be decoded and extracted; str: finished text."""
    encoding: str
    """Of bytes."""


class Skipped(NamedTuple):
    """Something that is counted and left out."""

    where: str
    reason: str
    """One of REASONS."""
    value: float | str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one record may cost; one beyond is skipped with its size."""

    max_record_bytes: int = 32 * 2**20
    """After decompression."""
    max_nesting: int = 1_000
    """Elements inside one another in HTML."""
    max_expansion: float = 250.0
    """Bytes that one compressed byte of a record above 1 MiB may become; pages become 4 to 20."""

    def __post_init__(self):
        for name in ("max_record_bytes", "max_nesting", "max_expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")

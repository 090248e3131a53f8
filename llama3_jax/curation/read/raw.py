"""What a reader yields: documents as they were found, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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
    """bad_json, bad_record, cut_short, decompression, no_text_field, not_found, not_html, not_text, too_big, too_deep."""
    value: float | str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one record may cost; one beyond is skipped with its size."""

    max_record_bytes: int = 32 * 2**20
    """After decompression."""
    max_nesting: int = 1_000
    """Elements inside one another in HTML."""

    def __post_init__(self):
        for name in ("max_record_bytes", "max_nesting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")

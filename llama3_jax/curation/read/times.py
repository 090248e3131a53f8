"""When something was crawled, in one form whatever its record writes."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, date, datetime
from typing import Any

_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.\d+)?")
_PART = re.compile(r"\d{4}(?:-\d\d){0,2}")
_EPOCH_MS = 10**11
"""Beyond, a number counts milliseconds: as seconds it would be after the year 5000."""


def iso_utc(said: Any) -> str:
    """ISO 8601 in UTC to the second; a year, month or day stays one. Understood are ISO 8601, the 14 digits of archives,
    the dates of mail and HTTP, and seconds or milliseconds since 1970; empty where it is none of these."""
    try:
        if isinstance(said, datetime):
            return _written(said)
        if isinstance(said, date):
            return said.isoformat()
        if isinstance(said, int | float) and not isinstance(said, bool):
            return _written(datetime.fromtimestamp(said / 1000 if abs(said) > _EPOCH_MS else said, UTC))
        text = str(said or "").strip()[:64]
        if _PART.fullmatch(text):
            return text
        if compact := _COMPACT.fullmatch(text):
            return _written(datetime(*map(int, compact.groups())))
        if re.fullmatch(r"\d{9,13}(?:\.\d{1,9})?", text):
            return iso_utc(float(text))
        try:
            return _written(datetime.fromisoformat(text))
        except ValueError:
            return _written(email.utils.parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return ""


def _written(time: datetime) -> str:
    return (time.astimezone(UTC) if time.tzinfo else time).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")

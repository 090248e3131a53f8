"""Which extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How HTML becomes text."""

    extractor: Literal["own", "trafilatura"] = "own"

"""What a run is evaluated on, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How often, and on how much held-out text, a run is evaluated."""

    every_steps: int
    sequence_length: int
    tokens_per_source: int
    """Positions read from each source, from its beginning; a smaller source is read whole."""
    rows_per_batch: int

    def __post_init__(self) -> None:
        for name in ("every_steps", "sequence_length", "tokens_per_source", "rows_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")

"""How tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The released models' reference settings by default; `temperature=0` always takes the likeliest token."""

    temperature: float = 0.6
    top_p: float = 0.9
    """Sample from the fewest tokens whose probabilities reach this sum."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}; use 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}; use 0 < top_p <= 1")

"""How often a run is saved and which of its checkpoints stay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Retention:
    every_steps: int
    """Steps between saves; the end of every stage is saved too."""
    keep_last: int = 2
    keep_every: int | None = None
    """Checkpoints at multiples of this step count are never deleted."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every={self.keep_every}; use 1 or more steps, or null")

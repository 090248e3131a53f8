"""A stage: one sequence length, batch size and mix for a number of tokens (section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    tokens: int
    """Positions to train on; the stage ends at the first step at or after this count."""
    sequence_length: int
    """Positions of a row."""
    tokens_per_step: int
    """Positions of a global batch, a multiple of sequence_length."""
    mix: Mapping[str, float] | None = None
    """Weight of each source; null keeps the stage before's, and at the start follows the sizes of the sources."""
    microbatches: int = 1
    """Pieces a batch is cut into, one after the other, their gradients summed in float32."""

    def __post_init__(self) -> None:
        for name in ("tokens", "sequence_length", "tokens_per_step", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.tokens_per_step % self.sequence_length:
            raise ValueError(
                f"tokens_per_step={self.tokens_per_step} is not a whole number of rows of "
                f"sequence_length={self.sequence_length}; use a multiple of it"
            )
        if self.num_rows % self.microbatches:
            raise ValueError(
                f"microbatches={self.microbatches} do not divide the {self.num_rows} rows of a batch "
                f"({self.tokens_per_step} / {self.sequence_length}); use a divisor of {self.num_rows}"
            )
        for source, weight in (self.mix or {}).items():
            if not weight > 0:
                raise ValueError(f"mix.{source}={weight}; use a positive weight, or leave the source out")

    @property
    def num_rows(self) -> int:
        """Rows of a global batch."""
        return self.tokens_per_step // self.sequence_length

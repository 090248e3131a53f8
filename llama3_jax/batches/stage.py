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
    rows_per_group: int | None = None
    """Rows that a data-parallel group takes at a time; a batch with more is taken in several micro-batches, their
    gradients summed in float32. null takes all at once."""

    def __post_init__(self) -> None:
        for name in ("tokens", "sequence_length", "tokens_per_step", "rows_per_group"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.tokens_per_step % self.sequence_length:
            raise ValueError(
                f"tokens_per_step={self.tokens_per_step} is not a whole number of rows of "
                f"sequence_length={self.sequence_length}; use a multiple of it"
            )
        for source, weight in (self.mix or {}).items():
            if not weight > 0:
                raise ValueError(f"mix.{source}={weight}; use a positive weight, or leave the source out")

    @property
    def num_rows(self) -> int:
        """Rows of a global batch."""
        return self.tokens_per_step // self.sequence_length

    def microbatches(self, num_groups: int) -> int:
        """Pieces that a batch is taken in by `num_groups` data-parallel groups.

        Raises: ValueError if the rows do not split evenly.
        """
        at_once = min(self.rows_per_group or self.num_rows, self.num_rows // num_groups) * num_groups
        if at_once == 0 or self.num_rows % at_once:
            raise ValueError(
                f"{self.num_rows} rows of a batch ({self.tokens_per_step} / {self.sequence_length} tokens) do not split "
                f"over mesh.data={num_groups} groups of rows_per_group={self.rows_per_group}; use a data axis that divides "
                f"{self.num_rows}, and rows_per_group that divides the {self.num_rows} / {num_groups} rows of a group"
            )
        return self.num_rows // at_once

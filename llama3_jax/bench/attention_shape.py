"""The shape of an attention that is measured."""

from __future__ import annotations

from dataclasses import dataclass

BACKWARD = 2.5
"""FLOPs of the backward pass, in forward passes: five matmuls to two."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    rows: int
    length: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}={value}; use 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} do not group over num_kv_heads={self.num_kv_heads}; use a multiple")

    def __str__(self) -> str:
        return f"{self.rows} x {self.length:,} positions, {self.num_heads} heads over {self.num_kv_heads}, of {self.head_dim}"

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    def flops(self, pairs: float) -> float:
        """Of a forward pass over so many pairs of a query and a key; a backward pass has BACKWARD times as many."""
        return 4 * self.num_heads * self.head_dim * pairs

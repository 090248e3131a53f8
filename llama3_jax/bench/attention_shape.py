"""The shapes of the attention that is measured: of training, and of decoding."""

from __future__ import annotations

from dataclasses import dataclass

BACKWARD = 2.5
"""FLOPs of the backward pass, in forward passes: five matmuls to two."""


@dataclass(frozen=True, kw_only=True)
class Heads:
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
        return f"{self.num_heads} heads over {self.num_kv_heads}, of {self.head_dim}"

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, kw_only=True)
class Shape(Heads):
    rows: int
    length: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.length:,} positions, {super().__str__()}"

    def flops(self, pairs: float) -> float:
        """Of a forward pass over so many pairs of a query and a key; a backward pass has BACKWARD times as many."""
        return 4 * self.num_heads * self.head_dim * pairs


@dataclass(frozen=True, kw_only=True)
class DecodeShape(Heads):
    requests: int
    positions: int
    """Of each request, before the one that is decoded."""
    page: int

    def __str__(self) -> str:
        return f"{self.requests} requests of {self.positions:,} positions on pages of {self.page}, {super().__str__()}"

    @property
    def num_elements(self) -> int:
        """Of the keys and values that one layer has to read."""
        return 2 * self.requests * self.positions * self.num_kv_heads * self.head_dim

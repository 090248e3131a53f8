"""The shape of the decoding that is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    requests: int
    positions: int
    """Of each request, before the one that is decoded."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}={value}; use 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} do not group over num_kv_heads={self.num_kv_heads}; use a multiple")

    def __str__(self) -> str:
        return (
            f"{self.requests} requests of {self.positions:,} positions on pages of {self.page}, {self.num_heads} heads over "
            f"{self.num_kv_heads}, of {self.head_dim}"
        )

    @property
    def num_elements(self) -> int:
        """Of the keys and values that one layer has to read."""
        return 2 * self.requests * self.positions * self.num_kv_heads * self.head_dim

"""The settings of AdamW (section 3.4); the paper does not print betas, epsilon, decay and clipping: the values are ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay: a step moves by learning_rate * (adam + weight_decay * parameter)."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Not applied to the scales of the norms."""
    clip_norm: float = 1.0
    """Largest global gradient norm; a larger gradient is scaled down to it."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 0 <= {name} < 1")
        for name in ("epsilon", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}; use a positive number")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay}; use 0 or more")

"""The architecture of a Llama 3 model (table 3 and section 3.2); readable before any device is touched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """The frequency scaling of Llama 3.1: not in the paper, taken from the released code.

    Inverse frequencies whose wavelength is longer than the original context are divided by `factor`, short ones are
    kept, those between are blended.
    """

    factor: float
    """8 for 3.1, 32 for 3.2 1B and 3B."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    """Positions the unscaled model was trained on."""

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} would shrink the context; use 1 or more")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} and high_freq_factor={self.high_freq_factor}: use 0 < low < high"
            )
        if self.original_context_length < 1:
            raise ValueError(f"original_context_length={self.original_context_length}: use 1 or more positions")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    """Grouped-query attention: each key/value head serves num_heads / num_kv_heads query heads."""
    head_dim: int
    ffw_dim: int
    vocab_size: int
    """Ranks plus 256 special tokens."""
    context_length: int
    """Positions a row may have; `rope_scaling` raises it to factor * original_context_length where that is more.

    131072 for Llama 3.1, whose factor of 8 over 8192 positions alone would give half of that.
    """
    tie_embeddings: bool = False
    """The output matrix is the embedding table: 3.2 1B and 3B only."""
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in (
            "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "ffw_dim", "vocab_size", "context_length"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} do not group over num_kv_heads={self.num_kv_heads}; use a multiple of "
                f"{self.num_kv_heads}, or a num_kv_heads that divides {self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary embedding turns pairs, use an even number")
        if self.rope_theta <= 1:
            raise ValueError(f"rope_theta={self.rope_theta}; use more than 1 (500000 in the paper)")
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps={self.norm_eps}; use a small positive number (1e-5 in the released models)")

    @property
    def longest_sequence(self) -> int:
        """Positions that the rotary embedding is meant for, scaling included."""
        if self.rope_scaling is None:
            return self.context_length
        return max(self.context_length, round(self.rope_scaling.factor * self.rope_scaling.original_context_length))

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; a tied embedding counts once."""
        D, H = self.model_dim, self.head_dim
        attention = D * H * (2 * self.num_heads + 2 * self.num_kv_heads)
        per_layer = attention + 3 * D * self.ffw_dim + 2 * D
        return self.num_layers * per_layer + (1 if self.tie_embeddings else 2) * self.vocab_size * D + D

    def flops_per_token(self, visible_keys: float) -> float:
        """Model FLOPs to train on one position: 6 per weight of a matmul, plus attention over `visible_keys` keys.

        The embedding lookup is not a matmul and is not counted; recomputation is not counted either.
        """
        D, H = self.model_dim, self.head_dim
        weights = self.num_layers * (D * H * (2 * self.num_heads + 2 * self.num_kv_heads) + 3 * D * self.ffw_dim)
        attention = 2 * self.num_layers * self.num_heads * H * visible_keys
        return 6.0 * (weights + self.vocab_size * D + attention)

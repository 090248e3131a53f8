"""Weights in any format, as conversion and loading see them: an architecture, and tensors that can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from llama3_jax.checkpoint.formats.stored import DTYPES
from llama3_jax.checkpoint.formats.table import ALL, Tensor, tensors
from llama3_jax.model.config import ModelConfig


class Weights(Protocol):
    """Its files were found to be whole, and to be of this architecture, when it was made."""

    config: ModelConfig
    name: str
    """For messages: where it lies."""

    def dtype(self, tensor: Tensor) -> np.dtype: ...

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        """A part of [outputs, inputs] (see `table`) that keeps whole heads. Raises: OSError, ValueError."""
        ...


@dataclass(frozen=True)
class InDtype:
    """The same weights, rounded to another dtype."""

    weights: Weights
    to: np.dtype

    @property
    def config(self) -> ModelConfig:
        return self.weights.config

    @property
    def name(self) -> str:
        return self.weights.name

    def dtype(self, tensor: Tensor) -> np.dtype:
        return self.to

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        with np.errstate(over="ignore"):  # infinity is found, and the tensor named, before anything is written
            return self.weights.read(tensor, rows, columns).astype(self.to, copy=False)


@dataclass(frozen=True)
class WithKvHeads:
    """The same model with each key/value head stored several times in a row, or once instead of several times.

    Raises: ValueError for a number of heads that the stored ones do not make; `read` raises ValueError where heads that
        would become one differ.
    """

    weights: Weights
    num_kv_heads: int

    def __post_init__(self) -> None:
        have, want, queries = self.weights.config.num_kv_heads, self.num_kv_heads, self.weights.config.num_heads
        if want < 1 or queries % want or (have % want and want % have):
            raise ValueError(
                f"{self.name} has {have} key/value heads for {queries} query heads, which do not make {want}; use a multiple or "
                f"a divisor of {have} that divides {queries}"
            )

    @property
    def config(self) -> ModelConfig:
        return replace(self.weights.config, num_kv_heads=self.num_kv_heads)

    @property
    def name(self) -> str:
        return self.weights.name

    def dtype(self, tensor: Tensor) -> np.dtype:
        return self.weights.dtype(tensor)

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        have, want, width = self.weights.config.num_kv_heads, self.num_kv_heads, self.config.head_dim
        if "K" not in tensor.weight.dims:
            return self.weights.read(tensor, rows, columns)
        start, stop, _ = rows.indices(want * width)
        first, last = start // width, stop // width
        if want >= have:
            copies = want // have
            low, high = first // copies, -(-last // copies)
            heads = self._heads(tensor, low, high, columns)
            return heads[np.arange(first, last) // copies - low].reshape(stop - start, -1)
        copies = have // want
        heads = self._heads(tensor, first * copies, last * copies, columns)
        groups = heads.reshape(last - first, copies, *heads.shape[1:])
        bits = groups.view(np.uint8)
        if not np.array_equal(bits, np.broadcast_to(bits[:, :1], bits.shape)):
            raise ValueError(
                f"{self.name}: the {have} key/value heads of {tensor.hugging_face} are not {want} stored {copies} times each; "
                f"keep them all: --kv-heads {have}"
            )
        return groups[:, 0].reshape(stop - start, -1)

    def _heads(self, tensor: Tensor, first: int, last: int, columns: slice) -> np.ndarray:
        width = self.config.head_dim
        rows = self.weights.read(tensor, slice(first * width, last * width), columns)
        return rows.reshape(last - first, width, -1)


def dtype_named(name: str) -> np.dtype:
    """Raises: ValueError for one that weights are not kept in."""
    if name not in DTYPES:
        raise ValueError(f"dtype {name}; use {', '.join(DTYPES)}")
    return DTYPES[name]


def expected_tensors(cfg: ModelConfig, found: int, where: str, why: str) -> list[Tensor]:
    """Tensors of an architecture. Args: found: how many there are. Raises: ValueError if those are none near as many."""
    if cfg.num_layers > found:
        raise ValueError(f"{where} holds {found} tensors and {why} says {cfg.num_layers} layers; they are of different models")
    return list(tensors(cfg))


def require_shapes(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], where: str, why: str) -> None:
    """Args: why: what the expected shapes come from. Raises: ValueError listing tensors that are missing, surplus or of
    another shape."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name[:100]} is not known" for name in found if name not in expected]
    wrong += [
        f"{name} is {list(found[name])}, {why} says {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{where} does not hold the model of its {why}: {'; '.join(wrong[:5])}{more}")

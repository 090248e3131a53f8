"""The likelihood of held-out documents: nats per token, and bits per byte, which does not depend on the vocabulary.

Shape letters: B rows, S positions, C sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.rows import pack
from llama3_jax.batches.stream import TokenStream
from llama3_jax.evaluate.settings import HeldOut
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.next_token import next_token_loss
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.context_parallel import dealt


class HeldOutText:
    """The same rows at every evaluation, packed as in training."""

    def __init__(
        self,
        cfg: HeldOut,
        streams: Mapping[str, TokenStream],
        *,
        token_bytes: np.ndarray,
        precision: Precision,
        attention: Implementation = Implementation.AUTO,
    ):
        """Args: token_bytes: int [V], bytes of each token's text, 0 for special tokens."""
        self.sources = tuple(streams)
        self._batches = _rows(cfg, streams)
        self._bytes_C = np.zeros(len(streams), np.int64)
        for batch in self._batches:
            scored = batch.loss_weight > 0
            np.add.at(self._bytes_C, batch.source[scored], token_bytes[batch.targets[scored]])
        self._sums = jax.jit(lambda model, batch: _sums(model, batch, len(streams), precision, attention))

    def score(self, model: Transformer, mesh: Mesh) -> dict[str, float]:
        """`eval_loss` (nats per token) and `bits_per_byte` over all sources, and both as `name/source` for each.

        Bits per byte counts the nats of end-of-text tokens too, which have no bytes.
        """
        nats_C, tokens_C = np.zeros(len(self.sources)), np.zeros(len(self.sources))
        for batch in self._batches:
            nats, tokens = self._score(batch, model, mesh)
            nats_C += np.asarray(nats, np.float64)
            tokens_C += np.asarray(tokens, np.float64)
        scores = {"eval_loss": nats_C.sum() / tokens_C.sum(), "bits_per_byte": _bits(nats_C.sum(), self._bytes_C.sum())}
        for number, name in enumerate(self.sources):
            scores[f"eval_loss/{name}"] = nats_C[number] / tokens_C[number]
            scores[f"bits_per_byte/{name}"] = _bits(nats_C[number], self._bytes_C[number])
        return {name: float(score) for name, score in scores.items()}

    def warm_up(self, model: Transformer, mesh: Mesh) -> None:
        """Compiles what `score` runs for a model of these shapes, by scoring the first batch."""
        jax.block_until_ready(self._score(self._batches[0], model, mesh))

    def _score(self, batch: Batch, model: Transformer, mesh: Mesh) -> tuple[Array, Array]:
        sharding = NamedSharding(mesh, spec("batch", "position"))
        with jax.set_mesh(mesh):
            arranged = dealt(batch, mesh.shape[RULES.position])
            return self._sums(model, jax.tree.map(lambda leaf: _place(leaf, sharding), arranged))


def _sums(
    model: Transformer, batch: Batch, num_sources: int, precision: Precision, attention: Implementation
) -> tuple[Array, Array]:
    """float32 [C]: nats and scored tokens of each source."""
    _, nll_BS = next_token_loss(model, batch, precision=precision, attention=attention)
    of_source_BSC = (batch.source[..., None] == jnp.arange(num_sources)).astype(jnp.float32)
    total = PartitionSpec()
    weight_BS = batch.loss_weight
    return (
        jnp.einsum("bs,bsc->c", nll_BS * weight_BS, of_source_BSC, out_sharding=total),
        jnp.einsum("bs,bsc->c", weight_BS, of_source_BSC, out_sharding=total),
    )


def _rows(cfg: HeldOut, streams: Mapping[str, TokenStream]) -> list[Batch]:
    """Numpy batches [rows_per_batch, S]; the last one is filled up with padding."""
    S = cfg.sequence_length
    rows = [
        pack(stream.read(position, min(S, stream.num_tokens - position - 1) + 1), S, number)
        for number, stream in enumerate(streams.values())
        for position in range(0, max(1, min(stream.num_tokens - 1, cfg.tokens_per_source)), S)
    ]
    rows += [pack([], S, 0)] * (-len(rows) % cfg.rows_per_batch)
    return [
        jax.tree.map(lambda *leaves: np.stack(leaves), *rows[first : first + cfg.rows_per_batch])
        for first in range(0, len(rows), cfg.rows_per_batch)
    ]


def _place(leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def _bits(nats: float, num_bytes: float) -> float:
    return nats / math.log(2) / max(num_bytes, 1)

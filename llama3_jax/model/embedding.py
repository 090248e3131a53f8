"""The embedding table, split over the vocabulary and, like every weight, over the model width (section 3.3.2).

Shape letters: B batch, S positions, D model, V a device's vocabulary entries.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from llama3_jax.sharding.axes import RULES
from llama3_jax.sharding.per_device import all_gather, axis_index, psum_scatter


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table_VD: Array, tokens_BS: Array, dtype: str) -> Array:
    """[B, S, D] in `dtype`, inside `per_device`: the rows that this device holds, zero for every other token.

    The table is cast before its width is gathered; its gradient is added up and reduced in float32.
    """
    row_BS, mine_BS = _rows(table_VD, tokens_BS)
    whole_VD = all_gather(table_VD.astype(dtype), RULES.embed, 1)
    return jnp.where(mine_BS[..., None], whole_VD[row_BS], 0)


def _rows(table_VD: Array, tokens_BS: Array) -> tuple[Array, Array]:
    row_BS = tokens_BS - axis_index(RULES.vocab) * table_VD.shape[0]
    mine_BS = (row_BS >= 0) & (row_BS < table_VD.shape[0])
    return jnp.where(mine_BS, row_BS, 0), mine_BS


def _forward(table_VD: Array, tokens_BS: Array, dtype: str):
    return lookup(table_VD, tokens_BS, dtype), (table_VD, tokens_BS)


def _backward(dtype: str, saved: tuple[Array, Array], bar_BSD: Array):
    table_VD, tokens_BS = saved
    row_BS, mine_BS = _rows(table_VD, tokens_BS)
    bar_BSD = jnp.where(mine_BS[..., None], bar_BSD.astype(jnp.float32), 0)
    sums_VD = jnp.zeros((table_VD.shape[0], bar_BSD.shape[-1]), jnp.float32).at[row_BS].add(bar_BSD)
    return psum_scatter(sums_VD, RULES.embed, 1).astype(table_VD.dtype), None


lookup.defvjp(_forward, _backward)

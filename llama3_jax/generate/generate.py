"""Token generation: one prefill of all prompts, then a decode loop on the device.

Shape letters: R requests, S prompt positions, V vocabulary, O new tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec, reshard

from llama3_jax.generate.sampling import sample
from llama3_jax.generate.settings import Sampling
from llama3_jax.model.kv_cache import PAGE, CachedAttend, KVCache, empty_cache
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import spec

NO_TOKEN = -1
"""Stands for a stop id where there is none."""


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: Sampling = Sampling(),
    seed: int = 0,
    precision: Precision = Precision.FLOAT32,
) -> list[list[int]]:
    """Continues each prompt until a stop id (left out) or `max_new_tokens`.

    Runs on the mesh that is set, whose data, sequence and pipeline axes must be 1. The same seed gives the same
    tokens; padding of shorter prompts changes nothing.

    Raises: ValueError for an empty prompt, or one that leaves no room in the model's context.
    """
    if not prompts or max_new_tokens < 1:
        raise ValueError(f"{len(prompts)} prompts and max_new_tokens={max_new_tokens}: use at least 1 of each")
    longest = model.cfg.longest_sequence
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {number} is empty; begin with at least the <|begin_of_text|> token")
        if len(prompt) + max_new_tokens > longest:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens and {max_new_tokens} more are asked for, the model's context "
                f"is {longest}; shorten the prompt to {max(0, longest - max_new_tokens)} tokens or ask for fewer"
            )
    width = -(-max(map(len, prompts)) // PAGE) * PAGE
    tokens_RS = np.zeros((len(prompts), width), np.int32)
    positions_RS = np.full((len(prompts), width), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens_RS[row, : len(prompt)] = prompt
        positions_RS[row, : len(prompt)] = np.arange(len(prompt))
    new_RO = _generate(
        model, tokens_RS, positions_RS, jax.random.key(seed), jnp.array(sorted(stop_ids) or [NO_TOKEN], jnp.int32),
        max_new_tokens, sampling, precision,
    )  # fmt: skip
    stops = set(stop_ids)
    return [_until(row, stops) for row in np.asarray(new_RO).tolist()]


@partial(jax.jit, static_argnums=(5, 6, 7))
def _generate(model, tokens_RS, positions_RS, key, stop_ids, max_new_tokens, sampling, precision) -> Array:
    R, S = tokens_RS.shape
    model = model.in_dtype(precision.dtype)  # once, not for every token
    cache = empty_cache(model.cfg, num_requests=R, num_positions=S + max_new_tokens, dtype=precision.dtype)
    length_R = jnp.max(positions_RS, axis=1) + 1

    def next_token(logits_RV, step):
        return sample(reshard(logits_RV, PartitionSpec()), jax.random.fold_in(key, step), sampling)

    logits_RV, cache = _forward(model, tokens_RS, positions_RS, length_R - 1, cache, precision)
    first_R = next_token(logits_RV, 0)
    new_RO = jnp.full((R, max_new_tokens), stop_ids[0], jnp.int32).at[:, 0].set(first_R)

    def unfinished(carry):
        step, _, _, done_R, _ = carry
        return (step < max_new_tokens) & ~jnp.all(done_R)

    def decode(carry):
        step, token_R, new_RO, done_R, cache = carry
        position_R1 = (length_R + step - 1)[:, None]
        logits_RV, cache = _forward(model, token_R[:, None], position_R1, jnp.zeros((R,), jnp.int32), cache, precision)
        token_R = jnp.where(done_R, stop_ids[0], next_token(logits_RV, step))
        return step + 1, token_R, new_RO.at[:, step].set(token_R), done_R | jnp.isin(token_R, stop_ids), cache

    start = (jnp.int32(1), first_R, new_RO, jnp.isin(first_R, stop_ids), cache)
    return lax.while_loop(unfinished, decode, start)[2]


def _forward(
    model: Transformer, tokens_RS: Array, positions_RS: Array, last_R: Array, cache: KVCache, precision: Precision
) -> tuple[Array, KVCache]:
    """Logits [R, V] after the token at index `last_R` of each row, and the cache with the new positions in it."""
    tokens_RS, positions_RS = (reshard(each, spec("batch", "position")) for each in (tokens_RS, positions_RS))
    x_RSD = model.embed(tokens_RS, precision.dtype)
    x_RSD, cache = model.layers(x_RSD, jnp.maximum(positions_RS, 0), CachedAttend(positions_RS), cache)
    row_R1 = jnp.arange(last_R.size)[:, None]
    x_RSD = reshard(x_RSD, spec("batch", "position", None))
    x_R1D = x_RSD.at[row_R1, last_R[:, None]].get(out_sharding=spec("batch", "position", None))
    return model.logits(x_R1D)[:, 0], cache


def _until(tokens: list[int], stops: set[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in stops:
            return tokens[:index]
    return tokens

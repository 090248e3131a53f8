"""Which values of a layer wait for the backward pass, and where: the policies behind `Remat` and `Fsdp`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.model.remat import Remat
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.linear import GATHERED_WEIGHT

ATTENTION = ("attention_out", "attention_lse")
"""Named by the attention kernels: with these the backward pass need not run the forward kernel again."""
LAYER_INPUT = "layer_input"


def named_layer_input(x_BSD: Array) -> Array:
    """The hidden states that enter a layer, under the name by which a policy finds them."""
    return checkpoint_name(x_BSD, LAYER_INPUT)


def checkpointed(layer: Callable, remat: Remat, fsdp: Fsdp) -> Callable:
    """`layer(*args, fsdp=...)`, keeping for the backward pass what the two policies say and recomputing the rest.

    Inside a layer that is recomputed the gathered weights always wait, from the recomputation to the gradient; whether
    they wait since the forward pass is for the policy to say.
    """
    if remat is Remat.NONE:
        return partial(layer, fsdp=fsdp)
    weights = (GATHERED_WEIGHT,) if fsdp is Fsdp.KEEP else ()
    policies = jax.checkpoint_policies
    if remat is Remat.OFFLOAD:
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=list(weights), names_which_can_be_offloaded=[LAYER_INPUT, *ATTENTION],
            offload_src="device", offload_dst="pinned_host",
        )  # fmt: skip
    else:
        attention = ATTENTION if remat is Remat.SAVE_ATTENTION else ()
        policy = policies.save_only_these_names(*attention, *weights)
    return jax.checkpoint(partial(layer, fsdp=Fsdp.KEEP), policy=policy)

"""The implementations of attention as tests run them: small tiles of unequal sides, in rows that they do not divide."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.kernels.attention import reference, tpu, xla
from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.schedule import block_schedule


def interpreting(**how):
    """While entered, TPU kernels are interpreted, in memory that is NaN until it is written."""
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan", **how))


def no_race_was_found_on_hopper():
    """In what was interpreted with `detect_races` and is done."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks  # where the interpreter says what it saw

    assert not gpu_callbacks.get_races().races_found


@dataclass(frozen=True)
class Subject:
    name: str
    blocks: BlockSizes | None
    scale: int
    """A row of 40 positions, which the tests' documents are told in, is so many times longer."""
    dtype: str = "float32"
    head_dim: int = 8
    """Of what is drawn for it, where a test says nothing else."""

    @property
    def length(self) -> int:
        return 40 * self.scale

    def attention(self, q_BSNH, k_BTKH, v_BTKH, mask):
        if self.name == "reference":
            return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
        arguments = (q_BSNH, k_BTKH, v_BTKH, mask, self.schedule(mask, k_BTKH.shape[1]), self.blocks)
        if self.name == "hopper":
            from jax.experimental.pallas import mosaic_gpu as plgpu

            from llama3_jax.kernels.attention import hopper

            return hopper.attention(*arguments, interpret=plgpu.InterpretGPUParams(detect_races=True))
        return {"xla": xla, "tpu": tpu}[self.name].attention(*arguments)

    def schedule(self, mask, num_keys):
        return block_schedule(mask, num_keys=num_keys, block_q=self.blocks.queries, block_k=self.blocks.keys)

    def run(self, *arguments):
        """(out, gradients of q, k and v) of q, k, v, a mask and the output's cotangent."""
        results = jax.block_until_ready(self._run(*arguments))
        if self.name == "hopper":
            no_race_was_found_on_hopper()
        return results

    @partial(jax.jit, static_argnums=0)
    def _run(self, q_BSNH, k_BTKH, v_BTKH, mask, out_bar_BSNH):
        with interpreting() if self.name == "tpu" else nullcontext():
            out_BSNH, pull = jax.vjp(partial(self.attention, mask=mask), q_BSNH, k_BTKH, v_BTKH)
            return out_BSNH, pull(out_bar_BSNH)


REFERENCE = Subject("reference", None, 1)
XLA = Subject("xla", BlockSizes(16, 8), 1)
TPU = Subject("tpu", BlockSizes(256, 128), 8)
HOPPER = Subject("hopper", BlockSizes(128, 128), 8, "bfloat16", 64)

needs_hopper = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels for Hopper need jax 0.11")
every_subject = pytest.mark.parametrize(
    "subject",
    [REFERENCE, XLA, TPU, pytest.param(HOPPER, marks=[pytest.mark.slow, needs_hopper])],  # interpreted, seconds a call
    ids=lambda subject: subject.name,
)


def draw(seed, *, num_queries, num_keys, rows=2, kv_heads=1, group=2, head_dim=8, dtype="float32"):
    """q, k, v and the cotangent of the output."""
    rng = np.random.default_rng(seed)
    query, key = (rows, num_queries, kv_heads * group, head_dim), (rows, num_keys, kv_heads, head_dim)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in (query, key, key, query))

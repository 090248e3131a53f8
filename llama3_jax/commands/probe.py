"""What `llama3 doctor` asks of an accelerator, in a process of its own: whether our kernel runs there, and what it runs on.

    python -m llama3_jax.commands.probe    prints one line of JSON, the fields of `Findings`
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.commands.doctor import Findings
from llama3_jax.kernels.attention.choice import described
from llama3_jax.kernels.attention.flash_attention import flash_attention
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import document_mask
from llama3_jax.kernels.device import traced_for

HEADS, GROUP, HEAD_DIM, LENGTH = 2, 4, 128, 1024
DTYPE = "bfloat16"
MARKS = {Implementation.TPU: "tpu_custom_call", Implementation.HOPPER: "mosaic_gpu"}
"""What a kernel of ours is called in a compiled program."""


def probe() -> Findings:
    segment_ids = jnp.asarray(np.repeat(np.arange(1, 9), LENGTH // 8)[None], jnp.int32)
    mask = document_mask(segment_ids)
    keys = jax.random.split(jax.random.key(0), 4)
    heads = (HEADS * GROUP, HEADS, HEADS, HEADS * GROUP)
    arrays = [jax.random.normal(key, (1, LENGTH, each, HEAD_DIM), DTYPE) for key, each in zip(keys, heads, strict=True)]

    def step(implementation):
        def both(q, k, v, out_bar):
            out, pull = jax.vjp(lambda *qkv: flash_attention(*qkv, mask, implementation=implementation), q, k, v)
            return out, *pull(out_bar)

        return jax.jit(both).lower(*arrays).compile()

    attention = described(Implementation.AUTO, head_dim=HEAD_DIM, dtype=DTYPE)
    ours = step(Implementation.AUTO)
    return Findings(
        attention=attention, in_program=in_program(attention, ours.as_text()),
        difference=difference(ours(*arrays), step(Implementation.REFERENCE)(*arrays)), libraries=libraries(), sums=sums(),
    )  # fmt: skip


def in_program(attention: str, text: str) -> bool | None:
    mark = MARKS.get(Implementation(attention.split()[0]))
    return None if mark is None else mark in text


def difference(ours, reference) -> float:
    pairs = [[np.asarray(x, np.float32) for x in pair] for pair in zip(ours, reference, strict=True)]
    return max(float(np.linalg.norm(one - other) / np.linalg.norm(other)) for one, other in pairs)


def libraries() -> dict[str, str]:
    """Versions of what NVIDIA's packages brought, and of what the plugin loads."""
    if traced_for().platform != "gpu":
        return {}
    found = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"] or ""
        if part := re.fullmatch(r"nvidia-(cublas|cudnn|nccl|cusolver|cusparse|cuda-runtime|cuda-nvcc|nvshmem)(-cu\d+)?", name):
            found[part[1]] = package.version
    return found | _loaded()


def _loaded() -> dict[str, str]:
    from jax._src.lib import cuda_versions  # nothing public says so

    asked = {"CUDA runtime": "cuda_runtime_get_version", "cuDNN": "cudnn_get_version", "cuBLAS": "cublas_get_version"}
    found = {}
    for name, function in asked.items():
        try:
            found[f"{name} loaded"] = str(getattr(cuda_versions, function)())
        except Exception as error:  # a library that does not load says so in words of its own
            found[f"{name} loaded"] = f"no: {error}".splitlines()[0]
    return found


def sums() -> bool | None:
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    mesh = jax.make_mesh((len(devices),), ("all",), devices=devices)
    numbers = jax.device_put(jnp.arange(1.0, len(devices) + 1), jax.NamedSharding(mesh, jax.P("all")))
    total = jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=jax.P("all"), out_specs=jax.P())(numbers)
    return float(total[0]) == len(devices) * (len(devices) + 1) / 2


if __name__ == "__main__":
    print(json.dumps(asdict(probe())))

"""The step that `llama3 train` runs."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.stages import Compiled

from llama3_jax.batches.batch import Batch
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.context_parallel import dealt
from llama3_jax.train.abstract import compile_step
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState


class Ours:
    name = "llama3_jax"

    def __init__(
        self, model: Transformer, objective: NextToken, optimizer: AdamW, rate: float, shape: tuple[int, int, int], mesh: Mesh
    ):
        """Args: model: used up by the first step."""
        self._rows = NamedSharding(mesh, spec(None, "batch", "position"))
        self._pieces = mesh.shape[RULES.position]
        self._state = TrainState.create(model, optimizer)
        self._rate = jnp.float32(rate)
        started = time.perf_counter()
        self.program = compile_step(objective, optimizer, self._state, shape, mesh)
        self.compile_s = time.perf_counter() - started
        self.peak_bytes = peak_bytes(self.program)

    def step(self, batch: Batch) -> float:
        self._state, metrics = self.program(self._state, jax.device_put(dealt(batch, self._pieces), self._rows), self._rate)
        return float(metrics["loss"])


def peak_bytes(program: Compiled) -> int:
    """Bytes on a device while a compiled step runs, as XLA planned them: arguments, results and everything between."""
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes

"""A phase of a run: stages that share a learning-rate rule, a rotary scaling, a mesh and what is recomputed."""

from __future__ import annotations

from dataclasses import dataclass

from llama3_jax.batches.stage import Stage
from llama3_jax.model.config import RopeScaling
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.train.gate import Gate
from llama3_jax.train.learning_rate import LearningRate


@dataclass(frozen=True, kw_only=True)
class Phase:
    name: str
    stages: tuple[Stage, ...]
    learning_rate: LearningRate
    rope_scaling: RopeScaling | None = None
    """Switched on for this phase; null keeps what the phase before had."""
    mesh: MeshConfig | None = None
    """null keeps the run's mesh."""
    remat: Remat = Remat.NONE
    fsdp: Fsdp = Fsdp.REGATHER
    average_every: int | None = None
    """Steps between the parameters that enter the Polyak average of this phase; null averages nothing."""
    gate: Gate | None = None
    """What the model must meet at the end of this phase for the run to go on; null asks nothing."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty; a phase needs at least one")
        if self.average_every is not None and self.average_every < 1:
            raise ValueError(f"average_every={self.average_every}; use 1 or more steps, or null")

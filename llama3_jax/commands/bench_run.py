"""A comparison of training steps as one value: what a YAML file of `llama3 bench train` is checked against."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from llama3_jax.commands.placement import misfits_of_attention, misfits_of_model, misfits_of_rows
from llama3_jax.commands.xla import Xla
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.mesh_config import MeshConfig


class Yardstick(enum.Enum):
    BARE = "bare"
    """A hand-written jax step: a scan over layers and AdamW, dense masked attention, sharding left to `jit`."""
    TORCH = "torch"
    """Hugging Face transformers on torch, where they are installed; on one device."""
    TORCH_COMPILE = "torch_compile"
    """The same through torch.compile."""


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    model: ModelConfig
    num_rows: int
    sequence_length: int
    documents_per_row: int = 1
    """Cut at random places that are others in every batch."""
    precision: Precision
    mesh: MeshConfig = MeshConfig()
    xla: Xla = Xla()
    remat: Remat = Remat.NONE
    fsdp: Fsdp = Fsdp.REGATHER
    attention: Implementation = Implementation.AUTO
    rounds: int = 10
    """In each, every step is timed once on the same batch; one more goes before, to compile."""
    yardsticks: tuple[Yardstick, ...] = tuple(Yardstick)
    memory_of: tuple[Remat, ...] = tuple(Remat)
    """Policies whose memory is told; each is compiled for it."""

    def __post_init__(self) -> None:
        for name in ("num_rows", "sequence_length", "documents_per_row", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        problems = [
            *misfits_of_model(self.model, self.mesh), *misfits_of_rows(self.sequence_length, self.model, self.mesh),
            *misfits_of_attention(self.attention, self.mesh),
        ]  # fmt: skip
        if self.attention is Implementation.CUDNN and self.documents_per_row > 1:
            problems.append(
                f"attention=cudnn would attend across the documents_per_row={self.documents_per_row} of a row; use "
                "documents_per_row=1, or attention=auto"
            )
        if self.documents_per_row > self.sequence_length // 2:
            problems.append(
                f"documents_per_row={self.documents_per_row} leaves nothing to learn in rows of {self.sequence_length}; use "
                f"{self.sequence_length // 2} or fewer"
            )
        if self.num_rows % self.mesh.data:
            problems.append(
                f"num_rows={self.num_rows} do not split over mesh.data={self.mesh.data}; use a multiple of {self.mesh.data}"
            )
        if problems:
            raise ValueError("; ".join(problems))

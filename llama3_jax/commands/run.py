"""A pre-training run as one value: what a YAML run file of `llama3 train` is checked against."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from llama3_jax.batches.packing import Packing
from llama3_jax.batches.shards import Shards
from llama3_jax.checkpoint.settings import Saving
from llama3_jax.commands.placement import misfits_of_attention, misfits_of_model, misfits_of_rows
from llama3_jax.commands.xla import Xla
from llama3_jax.config.render import difference
from llama3_jax.curation.corpus import Corpus
from llama3_jax.evaluate.settings import HeldOut
from llama3_jax.generate.settings import Sampling
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.learning_rate import Continue, LinearTo
from llama3_jax.train.phase import Phase


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Text that is generated as training goes, from the beginning of a held-out document of each source."""

    every_steps: int
    prompt_tokens: int
    max_new_tokens: int
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        for name in ("every_steps", "prompt_tokens", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    name: str
    """Of the run directory, below --runs."""
    seed: int
    """Of the initial parameters and the order of documents."""
    data: Corpus | Shards
    packing: Packing = Packing.CONCATENATE
    """How documents become rows."""
    max_epochs: Mapping[str, float] | None = None
    """Times that a source may be read in the whole run; more is an error before training. A source that is not named has
    no limit."""
    model: ModelConfig
    phases: tuple[Phase, ...]
    init_from: str | None = None
    """Run directory, exported weights, a checkpoint of either, or a directory of Hugging Face's or Meta's, whose parameters a
    new run begins with; null draws them."""
    optimizer: AdamW
    precision: Precision
    attention: Implementation = Implementation.AUTO
    mesh: MeshConfig = MeshConfig()
    xla: Xla = Xla()
    max_skipped_steps: int = 10
    """Steps with gradients that are not finite that are skipped before the run is stopped."""
    held_out: HeldOut
    checkpoint: Saving
    samples: Samples

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"name={self.name!r} must name a directory: letters, digits, '_', '.', '-', no '.' first")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}; use 0 <= seed < 2**32")
        if self.model.vocab_size <= 512:
            raise ValueError(f"model.vocab_size={self.model.vocab_size}; use more than 512: 256 bytes and 256 special tokens")
        if not self.phases:
            raise ValueError("phases is empty; a run needs at least one")
        if isinstance(self.phases[0].learning_rate, Continue | LinearTo):
            raise ValueError(
                f"phases[0].learning_rate.kind={self.phases[0].learning_rate.kind} goes on from the phase before, and the "
                "first has none; use kind: warmup_cosine"
            )
        if self.phases[0].gate is not None:
            raise ValueError("phases[0].gate compares with the phase before, and the first has none; give a later phase a gate")
        names = [f"{phase.name}/{stage.name}" for phase in self.phases for stage in phase.stages]
        for name in names:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise ValueError(f"phases has a phase/stage named {name!r}; use letters, digits, '_', '.', '-'")
            if names.count(name) > 1:
                raise ValueError(f"phases has {name} {names.count(name)} times; give each stage of a phase its own name")
        for source, limit in (self.max_epochs or {}).items():
            if source not in self.sources:
                raise ValueError(f"max_epochs names source {source!r}; the data has {', '.join(self.sources)}")
            if not limit > 0:
                raise ValueError(f"max_epochs.{source}={limit}; use a positive number, or leave the source out for no limit")
        problems = [problem for phase in self._placed() for problem in self._misfits(*phase)]
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.data.sources if isinstance(self.data, Corpus) else self.data.train)

    @property
    def longest_row(self) -> int:
        return max(stage.sequence_length for phase in self.phases for stage in phase.stages)

    @property
    def meshes(self) -> tuple[MeshConfig, ...]:
        """The mesh of each phase."""
        return tuple(mesh for _, _, _, mesh in self._placed())

    @property
    def first_model(self) -> ModelConfig:
        """The architecture of the first phase."""
        return next(model for _, _, model, _ in self._placed())

    def _placed(self) -> Iterator[tuple[int, Phase, ModelConfig, MeshConfig]]:
        """Each phase with the architecture and the mesh it runs with."""
        model, mesh = self.model, self.mesh
        for number, phase in enumerate(self.phases):
            model = replace(model, rope_scaling=phase.rope_scaling) if phase.rope_scaling else model
            mesh = phase.mesh or mesh
            yield number, phase, model, mesh

    def _misfits(self, number: int, phase: Phase, model: ModelConfig, mesh: MeshConfig) -> Iterator[str]:
        yield from misfits_of_model(model, mesh)
        yield from misfits_of_attention(self.attention, mesh)
        lengths = {f"phases[{number}].stages[{index}]": stage.sequence_length for index, stage in enumerate(phase.stages)}
        for where, stage in zip(lengths, phase.stages, strict=True):
            try:
                stage.microbatches(mesh.data)
            except ValueError as error:
                yield f"{where}: {error}"
        if self.held_out.rows_per_batch % mesh.data:
            yield (
                f"held_out: rows_per_batch={self.held_out.rows_per_batch} do not split over mesh.data={mesh.data}; use a "
                f"multiple of {mesh.data}"
            )
        for where, length in [*lengths.items(), ("held_out", self.held_out.sequence_length)]:
            yield from (f"{where}: {problem}" for problem in misfits_of_rows(length, model, mesh))
        for index, stage in enumerate(phase.stages):
            for source in stage.mix or {}:
                if source not in self.sources:
                    yield (
                        f"phases[{number}].stages[{index}].mix names source {source!r}; the data has {', '.join(self.sources)}"
                    )
        wanted = self.samples.prompt_tokens + self.samples.max_new_tokens
        if wanted > model.longest_sequence:
            yield f"samples: {wanted} tokens (prompt and new) do not fit the context of {model.longest_sequence}"


_MAY_CHANGE = re.compile(
    r"(name|mesh|xla|precision|attention|max_epochs|max_skipped_steps|checkpoint|samples|held_out\.every_steps"
    r"|phases\[\d+\]\.(mesh|remat|fsdp|gate|stages\[\d+\]\.rows_per_group))(?![\w])"
)
"""Values that may differ when a run is continued: they change how it is run and seen, and numbers by rounding at most (what
is stored is float32 under every precision)."""


def changes(before: dict, after: dict, begun: Sequence[Mapping] = ()) -> list[str]:
    """What keeps two configs (as plain mappings) from being one run: `model.ffw_dim: 64 -> 96` and so on.

    Args: begun: records of the stages that are trained, the last perhaps in part; what only comes after them may differ:
        sources that are added, the mix of a later stage, everything of a later phase.
    """
    if begun:
        before = {**before, "data": _with_added_sources(before["data"], after["data"])}
        before["phases"] = _with_later_stages(before["phases"], after["phases"], begun[-1]["phase"], begun[-1]["stage"])
    return [line for line in difference(before, after) if not _MAY_CHANGE.match(line)]


def _with_added_sources(before: dict, after: dict) -> dict:
    by_source = [key for key in ("sources", "train", "held_out") if key in before and key in after]
    return {**before, **{key: {**after[key], **before[key]} for key in by_source}}


def _with_later_stages(before: list[dict], after: list[dict], phase: int, stage: str) -> list[dict]:
    """`before` with the phases after number `phase`, and the mixes after its stage `stage`, of `after`."""
    if len(after) <= phase:
        return before
    current, seen, stages = before[phase], False, []
    for old, new in zip_longest(current["stages"], after[phase]["stages"][: len(current["stages"])]):
        stages.append({**old, "mix": new["mix"]} if seen and new else old)
        seen = seen or old["name"] == stage
    return [*before[:phase], {**current, "stages": stages}, *after[phase + 1 :]]

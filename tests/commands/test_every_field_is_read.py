"""A field of a run file that nobody reads is a bug: changing any one of them changes the step's program or what a run does.

Fields are found by reflection over the types of `TrainRun`, so that a new one is missed here by its name. What shapes the
training step must show in its lowered text. For the rest whole runs are rehearsed, with steps that compute nothing.
"""

from __future__ import annotations

import functools
import typing
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from sized_source import sized
from tiny_run import write_run

from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands import pretrain, sampler
from llama3_jax.commands.run import TrainRun
from llama3_jax.commands.train import compose, run_training
from llama3_jax.config.errors import ConfigError
from llama3_jax.curation.corpus import Corpus, Files, prepare_corpus
from llama3_jax.evaluate.held_out import HeldOutText
from llama3_jax.generate.sampling import sample
from llama3_jax.model.transformer import Transformer
from llama3_jax.tokenizer.train_bpe import save_ranks
from llama3_jax.train import loop
from llama3_jax.train.diverged import TrainingDiverged
from llama3_jax.train.gate import PhaseNotPassed
from llama3_jax.train.goodput import Goodput
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState

RUN = """
name: tiny
seed: 0
data:
  kind: shards
  tokenizer_path: data/tokenizer.model
  train: {tales: [data/tales-train-*.arrayrecord], lists: [data/lists-train-*.arrayrecord]}
  held_out: {tales: [data/tales-held_out-*.arrayrecord], lists: [data/lists-held_out-*.arrayrecord]}
model:
  num_layers: 2
  model_dim: 16
  num_heads: 4
  num_kv_heads: 2
  head_dim: 4
  ffw_dim: 24
  vocab_size: 544
  context_length: 32
  rope_scaling: {factor: 2, original_context_length: 8}
optimizer: {}
precision: float32
attention: reference
mesh: {data: 2}
max_skipped_steps: 2
phases:
  - name: initial
    learning_rate: {kind: warmup_cosine, peak: 1.0e-2, final: 1.0e-3, warmup_steps: 2, steps: 8}
    stages: [{name: short, tokens: 256, sequence_length: 16, tokens_per_step: 64, mix: {tales: 0.7, lists: 0.3}}]
  - name: long_context
    learning_rate: {kind: continue}
    rope_scaling: {factor: 4, original_context_length: 16}
    mesh: {data: 2}
    gate: {max_increase: 0.1}
    stages: [{name: again, tokens: 128, sequence_length: 16, tokens_per_step: 64}]
  - name: anneal
    learning_rate: {kind: linear_to, final: 0}
    stages: [{name: anneal, tokens: 512, sequence_length: 32, tokens_per_step: 128}]
held_out: {every_steps: 3, sequence_length: 32, tokens_per_source: 128, rows_per_batch: 4}
checkpoint: {every_steps: 1, keep_last: 2, keep_every: 3}
samples: {every_steps: 3, prompt_tokens: 4, max_new_tokens: 4}
"""
FROM_DOCUMENTS = (
    "data={kind: corpus, sources: {tales: {kind: files, paths: [tales.jsonl]}, lists: {kind: files, paths: [lists.jsonl]}}, "
    "max_bytes_per_source: null, held_out_fraction: 0.1}"
)

PROGRAM = {
    "model.num_layers": "model.num_layers=3",
    "model.model_dim": "model.model_dim=20",
    "model.num_heads": "model.num_heads=2",
    "model.num_kv_heads": "model.num_kv_heads=4",
    "model.head_dim": "model.head_dim=8",
    "model.ffw_dim": "model.ffw_dim=32",
    "model.vocab_size": "model.vocab_size=600",
    "model.tie_embeddings": "model.tie_embeddings=true",
    "model.rope_theta": "model.rope_theta=10000",
    "model.rope_scaling.factor": "model.rope_scaling.factor=3",
    "model.rope_scaling.low_freq_factor": "model.rope_scaling.low_freq_factor=0.5",
    "model.rope_scaling.high_freq_factor": "model.rope_scaling.high_freq_factor=3",
    "model.rope_scaling.original_context_length": "model.rope_scaling.original_context_length=9",
    "model.norm_eps": "model.norm_eps=1e-6",
    "optimizer.beta1": "optimizer.beta1=0.8",
    "optimizer.beta2": "optimizer.beta2=0.99",
    "optimizer.epsilon": "optimizer.epsilon=1e-7",
    "optimizer.weight_decay": "optimizer.weight_decay=0.2",
    "optimizer.clip_norm": "optimizer.clip_norm=2",
    "precision": "precision=bfloat16",
    "attention": "attention=xla",
    "mesh.data": "mesh.data=4",
    "mesh.sequence": "mesh.sequence=2",
    "mesh.model": "mesh.model=2",
    "phases.rope_scaling.factor": "phases.1.rope_scaling.factor=5",
    "phases.rope_scaling.low_freq_factor": "phases.1.rope_scaling.low_freq_factor=0.5",
    "phases.rope_scaling.high_freq_factor": "phases.1.rope_scaling.high_freq_factor=3",
    "phases.rope_scaling.original_context_length": "phases.1.rope_scaling.original_context_length=17",
    "phases.mesh.data": "phases.1.mesh.data=4",
    "phases.mesh.sequence": "phases.1.mesh.sequence=2",
    "phases.mesh.model": "phases.1.mesh.model=2",
    "phases.remat": "phases.0.remat=full",
    "phases.fsdp": "phases.0.fsdp=keep",
    "phases.stages.sequence_length": "phases.0.stages.0.sequence_length=32",
    "phases.stages.tokens_per_step": "phases.0.stages.0.tokens_per_step=128",
    "phases.stages.rows_per_group": "phases.0.stages.0.rows_per_group=1",
}
"""What shapes the training step, with an override that must change its lowered text."""
REFUSED = {
    "model.context_length": "model.context_length=16",
    "mesh.pipeline": "mesh.pipeline=2",
    "phases.mesh.pipeline": "phases.1.mesh.pipeline=2",
}
"""What is either right or refused, and changes nothing else."""
DONE = {
    "name": ("name=other", "directory"),
    "seed": ("seed=1", "batches"),
    "packing": ("packing=best_fit", "batches"),
    "init_from": ("init_from=nowhere", "end"),
    "xla.flags": ("xla.flags=[deterministic]", "end"),
    "xla.memory_fraction": ("xla.memory_fraction=0.9", "end"),
    "max_epochs": ("max_epochs={tales: 0.01}", "end"),
    "max_skipped_steps": ("max_skipped_steps=1", "end"),
    "data.Shards.tokenizer_path": ("data.tokenizer_path=other.model", "end"),
    "data.Shards.train": ("data.train.tales=[data/lists-train-*.arrayrecord]", "batches"),
    "data.Shards.held_out": ("data.held_out.tales=[data/lists-held_out-*.arrayrecord]", "held_out"),
    "data.Corpus.sources.Files.paths": ("data.sources.tales.paths=[lists.jsonl]", "batches"),
    "data.Corpus.max_bytes_per_source": ("data.max_bytes_per_source=5000", "batches"),
    "data.Corpus.held_out_fraction": ("data.held_out_fraction=0.4", "batches"),
    "data.Corpus.tokenizer_path": ("data.tokenizer_path=other.model", "batches"),
    "data.Corpus.shard_tokens": ("data.shard_tokens=500", "batches"),
    "phases.name": ("phases.0.name=other", "phases"),
    "phases.average_every": ("phases.2.average_every=2", "averaged"),
    "phases.gate.max_increase": ("phases.1.gate.max_increase=-0.1", "end"),
    "phases.learning_rate.WarmupCosine.peak": ("phases.0.learning_rate.peak=0.02", "learning_rates"),
    "phases.learning_rate.WarmupCosine.final": ("phases.0.learning_rate.final=0.002", "learning_rates"),
    "phases.learning_rate.WarmupCosine.warmup_steps": ("phases.0.learning_rate.warmup_steps=1", "learning_rates"),
    "phases.learning_rate.WarmupCosine.steps": ("phases.0.learning_rate.steps=9", "learning_rates"),
    "phases.learning_rate.LinearTo.final": ("phases.2.learning_rate.final=1e-4", "learning_rates"),
    "phases.stages.name": ("phases.0.stages.0.name=other", "stages"),
    "phases.stages.tokens": ("phases.0.stages.0.tokens=320", "tokens"),
    "phases.stages.mix": ("phases.0.stages.0.mix.tales=0.1", "batches"),
    "held_out.every_steps": ("held_out.every_steps=2", "evaluated"),
    "held_out.sequence_length": ("held_out.sequence_length=16", "held_out"),
    "held_out.tokens_per_source": ("held_out.tokens_per_source=64", "held_out"),
    "held_out.rows_per_batch": ("held_out.rows_per_batch=8", "held_out"),
    "checkpoint.every_steps": ("checkpoint.every_steps=4", "saved"),
    "checkpoint.directory": ("checkpoint.directory=/proc/nowhere", "end"),
    "checkpoint.keep_last": ("checkpoint.keep_last=4", "kept"),
    "checkpoint.keep_every": ("checkpoint.keep_every=4", "kept"),
    "samples.every_steps": ("samples.every_steps=2", "sampled"),
    "samples.prompt_tokens": ("samples.prompt_tokens=5", "prompts"),
    "samples.max_new_tokens": ("samples.max_new_tokens=5", "new_tokens"),
    "samples.sampling.temperature": ("samples.sampling.temperature=0.7", "drawing"),
    "samples.sampling.top_p": ("samples.sampling.top_p=0.8", "drawing"),
}
"""What acts around the step, with an override and the part of `rehearse` that it must change."""


def names(kind, path=()):
    """Dotted names of the fields below a type; a class of a union is named too, its `kind` is the choice of it."""
    classes = [each for each in alternatives(kind) if is_dataclass(each)]
    for cls in classes:
        hints = typing.get_type_hints(cls)
        below = (*path, cls.__name__) if len(classes) > 1 else path
        for field in (field for field in fields(cls) if field.name != "kind"):
            yield from names(hints[field.name], (*below, field.name))
    if not classes:
        yield ".".join(path)


def alternatives(kind):
    """The types that a union, a tuple or a mapping is made of."""
    arguments = typing.get_args(kind)
    return [each for argument in arguments for each in alternatives(argument)] if arguments else [kind]


def test_every_field_is_in_the_table():
    """A name that is missing here needs a change that shows, or should not be a field."""
    overrides = PROGRAM | REFUSED | {name: override for name, (override, _) in DONE.items()}
    assert sorted(overrides.keys() ^ names(TrainRun)) == []
    for name, override in overrides.items():
        assert name.rpartition(".")[2] in override.partition("=")[0].split("."), f"{override} is of another field"
    settings = {name.rpartition(".")[2] for name in PROGRAM}
    assert {field.name for field in fields(NextToken)} <= settings, "a setting of the objective that no run sets"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with documents, their shards, another vocabulary and the run file, in which runs are composed."""
    place = tmp_path_factory.mktemp("fields")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_run(place)
        Path("tiny.yaml").write_text(RUN)
        sources = {name: Files(paths=(f"{name}.jsonl",)) for name in ("tales", "lists")}
        corpus = Corpus(sources=sources, max_bytes_per_source=None, held_out_fraction=0.1)
        prepare_corpus(corpus, Path("data"), vocab_size=544)
        merged = [bytes([byte, byte]) for byte in range(32)]
        save_ranks(Path("other.model"), [*(bytes([byte]) for byte in range(256)), *merged])
        yield place


class Reached(Exception):
    """The text of a program that was about to be compiled."""


def learner(make, self, mesh, phase):
    """The loop's learner, its leaves made by `make(shape, dtype, sharding)`; no step is skipped yet."""
    cfg = self.recipe.model_config(phase)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: TrainState.create(Transformer(cfg, key=jax.random.key(0)), self.recipe.optimizer))

    def placed(leaf):
        return make(leaf.shape, leaf.dtype, NamedSharding(mesh, leaf.sharding.spec if leaf.sharding else PartitionSpec()))

    return loop.Learner(jax.tree.map(placed, state).replace(skipped=np.int32(0)))


def program(run, phase):
    """The lowered step of the first stage of a phase, as the loop gives it to the compiler; nothing is computed."""

    def create(*place):
        return learner(lambda shape, dtype, sharding: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding), *place)

    def compile(lowered):
        raise Reached(lowered.as_text())

    data = SimpleNamespace(train=sized(**dict.fromkeys(run.sources, 1000)))
    recipe = pretrain._recipe(run, data)
    recipe = replace(recipe, spans=[span for span in recipe.spans if span.phase == phase])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_create", create)
        patch.setattr(jax.stages.Lowered, "compile", compile)
        begun = loop._Loop(recipe, SimpleNamespace(goodput=Goodput()), None)
        with jax.set_mesh(begun.out.mesh), pytest.raises(Reached) as reached:
            begun._compile(recipe.spans[0])
    return str(reached.value)


@functools.cache
def drawing(sampling):
    return jax.jit(partial(sample, sampling=sampling)).lower(np.zeros((2, 9)), jax.random.key(0)).as_text()


def rehearse(loaded, runs):
    """What a run does, step by step, with a model that stays as it is; the gradients of its first two steps are not finite."""
    seen = {"batches": [], "saved": [], "prompts": [], "new_tokens": [], "drawing": "", "held_out": [], "end": "complete"}

    def create(*place):
        return learner(lambda shape, dtype, sharding: jax.device_put(np.zeros(shape, dtype), sharding), *place)

    def compile(self, span):
        def step(state, batch, rate):
            seen["batches"].append(np.asarray(batch.tokens).tolist())
            skipped = len(seen["batches"]) <= 2
            return state, dict(loss=1.0, grad_norm=1.0, supervised_tokens=1.0, skipped=skipped, visible_pairs=1.0, batch_hash=0)

        return step, 0.0

    def save(self, step, tree, meta):
        seen["saved"].append(step)
        seen["averaged"] = meta["averaged"]
        self.path(step).mkdir(parents=True)
        self._retire(step)

    def score(self, model, mesh):
        seen["held_out"] = [batch.tokens.tolist() for batch in self._batches]
        scores = ("eval_loss", "bits_per_byte")
        scores = [*scores, *(f"{score}/{source}" for score in scores for source in self.sources)]
        return dict.fromkeys(scores, 1.0)

    def generate(model, prompts, *, max_new_tokens, sampling, **_):
        seen["prompts"], seen["new_tokens"] = prompts, max_new_tokens
        seen["drawing"] = drawing(sampling)
        return [[] for _ in prompts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_create", create)
        patch.setattr(loop._Loop, "_compile", compile)
        patch.setattr(CheckpointStore, "save", save)
        patch.setattr(CheckpointStore, "_seems_whole", lambda self, step: True)
        patch.setattr(HeldOutText, "score", score)
        patch.setattr(sampler, "generate", generate)
        patch.setattr(pretrain, "matmul_flops_per_s", lambda precision: 1.0)
        patch.setattr(pretrain, "plot_run", lambda directory: None)
        try:
            run_training(loaded, runs)
        except (ValueError, FileNotFoundError, TrainingDiverged, PhaseNotPassed) as error:
            return seen | {"end": str(error)}
    (directory,) = runs.iterdir()
    records = read_metrics(directory / "metrics.jsonl")
    steps = [record for record in records if "loss" in record]
    return seen | {
        "directory": directory.name,
        "phases": [record["phase"] for record in steps],
        "stages": [record["stage"] for record in steps],
        "tokens": [record["tokens"] for record in steps],
        "learning_rates": [record["learning_rate"] for record in steps],
        "evaluated": [record["step"] for record in records if "eval_loss" in record],
        "sampled": sorted(path.name for path in (directory / "samples").iterdir()),
        "kept": sorted(path.name for path in (directory / "checkpoints").iterdir()),
    }


@pytest.fixture(scope="module")
def program_before(place):
    return functools.cache(lambda phase: program(compose("tiny.yaml").value, phase))


@pytest.fixture(scope="module")
def done_before(place):
    """`done_before(*overrides)`: the rehearsal of the run that a change is made to."""
    return functools.cache(lambda *overrides: rehearse(compose("tiny.yaml", overrides), place / f"runs{len(overrides)}"))


def test_a_longer_context_changes_no_program(program_before):
    """`context_length` acts through its refusal alone, and a text depends on nothing but the program."""
    same = program(compose("tiny.yaml", ["model.context_length=48"]).value, 0) == program_before(0)
    assert same, "not compared in the assertion, which would tell the difference of two long texts"


@pytest.mark.parametrize("name", PROGRAM)
def test_the_program_of_a_step_changes(name, program_before):
    phase = 1 if PROGRAM[name].startswith("phases.1.") else 0
    assert program(compose("tiny.yaml", [PROGRAM[name]]).value, phase) != program_before(phase)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_it(name, place):
    with pytest.raises(ConfigError, match=name.rpartition(".")[2]):
        compose("tiny.yaml", [REFUSED[name]])


@pytest.mark.parametrize("name", DONE)
def test_what_a_run_does_changes(name, done_before, tmp_path):
    override, part = DONE[name]
    data = [FROM_DOCUMENTS] if ".Corpus." in name else []
    before, after = done_before(*data), rehearse(compose("tiny.yaml", [*data, override]), tmp_path)
    assert before["end"] == "complete" and (after["end"] == "complete" or part == "end")
    assert after[part] != before[part]

"""A pre-training run from its data to its last sample: the rooms put together."""

from __future__ import annotations

import contextlib
from itertools import zip_longest
from pathlib import Path

from jax.sharding import Mesh

from llama3_jax.batches.loader import stage_batches
from llama3_jax.batches.timeline import timeline
from llama3_jax.checkpoint.manifest import Directory, Manifest, read_manifest
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands import summary
from llama3_jax.commands.beginning import initial_model
from llama3_jax.commands.data import RunData, open_data
from llama3_jax.commands.log import Log
from llama3_jax.commands.one_document import require_one_document_a_row
from llama3_jax.commands.result import TrainResult
from llama3_jax.commands.run import TrainRun, changes
from llama3_jax.commands.run_directory import CHECKPOINTS, TOKENIZER
from llama3_jax.commands.sampler import Sampler, shown
from llama3_jax.config.render import difference
from llama3_jax.config.tree import to_mapping
from llama3_jax.evaluate.held_out import HeldOutText
from llama3_jax.kernels.attention.choice import require
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.device import device_of
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding import processes
from llama3_jax.sharding.axes import RULES, make_mesh
from llama3_jax.sharding.context_parallel import dealt
from llama3_jax.tokenizer.object_store import copy
from llama3_jax.train.goodput import Goodput
from llama3_jax.train.journal import Journal, NoJournal
from llama3_jax.train.loop import Recipe, Surroundings, train
from llama3_jax.train.machine import matmul_flops_per_s
from llama3_jax.train.plots import plot_run
from llama3_jax.train.preemption import Preemption
from llama3_jax.train.progress import Progress


def pretrain(run: TrainRun, directory: Path, say: Log, preemption: Preemption, goodput: Goodput) -> TrainResult:
    """Runs or continues `run` in `directory`; for the errors see `commands.train.train`."""
    mesh, *_ = [make_mesh(mesh) for mesh in run.meshes]  # every phase's, so that a missing device is known now
    require(run.attention, head_dim=run.model.head_dim, dtype=run.precision.dtype, device=device_of(mesh))
    with goodput.span("prepare_data"):
        data = open_data(run, directory, say)
    with goodput.span("start_up"):
        recipe = _recipe(run, data)
        summary.require_epochs(run, recipe, data)
        require_one_document_a_row(run, recipe)
        meta = {"run": to_mapping(run), "tokenizer": data.tokenizer.fingerprint, "data": dict(data.fingerprints)}
        store = _store(run, directory)
        resume = _begin(store, recipe, meta, say)
        first = resume[1].step if resume else 0
        begin = initial_model(None if resume else run.init_from, run.first_model, data.tokenizer.fingerprint, say)
        preemption.saving = lambda: store.saving
        peak = processes.of_first("peak", lambda: matmul_flops_per_s(run.precision))
        for line in summary.before(run, recipe, data, mesh, peak):
            say(line)
        held_out = HeldOutText(
            run.held_out, data.held_out, token_bytes=data.tokenizer.token_bytes, precision=run.precision,
            attention=Implementation.AUTO if run.attention is Implementation.CUDNN else run.attention,
        )  # fmt: skip
        sampler = Sampler(run, data)
    say(_beginning(first, recipe.num_steps))
    if resume and (differs := difference(resume[1].meta["run"], meta["run"])):
        say("\n  ".join(["otherwise than it was saved:", *differs]))
    journal_in = Journal if processes.is_first() else NoJournal
    with (
        journal_in(directory, resume_step=first, looked=resume is None or resume[1].meta["looked"]) as journal,
        Progress(recipe.num_steps, first_step=first + 1, total_tokens=recipe.num_tokens, stream=say.stream) as progress,
        contextlib.closing(store),
    ):

        def score(model: Transformer, mesh: Mesh) -> dict[str, float]:
            scores = held_out.score(model, mesh)
            return processes.of_first("scores", lambda: scores)  # every process decides by the same bits

        def sample(model: Transformer, mesh: Mesh) -> dict[str, str]:
            return {source: shown(*text) for source, text in sampler(model, mesh).items()}

        say.show = progress.message
        around = Surroundings(
            store=store, save_every=run.checkpoint.every_steps, journal=journal, progress=progress, say=say,
            goodput=goodput, preemption=preemption,
            batches=lambda span, sharding, microbatches, step: stage_batches(
                span, sharding, microbatches=microbatches, first_step=step,
                arrange=lambda batch: dealt(batch, sharding.mesh.shape[RULES.position]),
            ),
            initial_model=begin, warm_up=held_out.warm_up, evaluate=score, evaluate_every=run.held_out.every_steps,
            sample=sample, sample_every=run.samples.every_steps,
            plot=lambda: processes.once("plots", lambda: plot_run(directory)), meta=meta,
        )  # fmt: skip
        outcome = train(recipe, around, resume=resume)
        with goodput.span("evaluate"):
            scores = score(outcome.learner.best, outcome.mesh)
        with goodput.span("sample"):
            samples = sampler(outcome.learner.best, outcome.mesh)
        if not journal.has_samples(recipe.num_steps):
            with preemption.deferred():
                journal.samples(recipe.num_steps, {f"{source}-final": shown(*text) for source, text in samples.items()})
    say.show = print
    for line in summary.after(directory, outcome, scores, samples, goodput, peak):
        say(line)
    return TrainResult(directory=directory, scores=scores, samples=samples)


def _recipe(run: TrainRun, data: RunData) -> Recipe:
    return Recipe(
        model=run.model, phases=run.phases, spans=timeline([phase.stages for phase in run.phases], data.train),
        optimizer=run.optimizer, mesh=run.mesh, seed=run.seed, precision=run.precision, attention=run.attention,
        max_skipped_steps=run.max_skipped_steps,
    )  # fmt: skip


def _store(run: TrainRun, directory: Path) -> CheckpointStore:
    """Where the run is saved; a place of its own gets the tokenizer too, so that nothing else is needed to use it."""
    saving = run.checkpoint
    store = CheckpointStore(saving.directory or directory / CHECKPOINTS, keep_last=saving.keep_last, keep_every=saving.keep_every)
    if saving.directory:
        try:
            processes.once("tokenizer beside checkpoints", lambda: copy(directory / TOKENIZER, store.directory / TOKENIZER))
        except OSError as error:
            raise ValueError(f"checkpoint.directory={saving.directory} cannot be written to ({error}); name another") from error
    return store


def _begin(store: CheckpointStore, recipe: Recipe, meta: dict, say: Log) -> tuple[Directory, Manifest] | None:
    """The checkpoint to go on from, which the first process chooses and verifies; what killed processes left is cleared."""

    def choose() -> int | None:
        store.clear_leftovers()
        found = store.latest(report=say, foreign=lambda manifest: "; ".join(_differences(manifest, recipe, meta)))
        return found and found[1].step

    step = processes.of_first("checkpoint to resume", choose)
    return None if step is None else (store.path(step), read_manifest(store.path(step)))


def _differences(manifest: Manifest, recipe: Recipe, meta: dict) -> list[str]:
    """What keeps a run from going on from a checkpoint: its config, its tokenizer, its data, the stages it has trained."""
    before = manifest.meta
    begun = before.get("cursor", {}).get("begun", [])
    differs = changes(before.get("run", {}), meta["run"], begun)
    if before.get("tokenizer") != meta["tokenizer"]:
        differs.append("the tokenizer")
    for name, digest in before.get("data", {}).items():
        if meta["data"].get(name) != digest:
            differs.append(f"the token shards of source {name} (batches would not go on where they were)")
    if not differs:
        differs = [
            f"stage {past['stage']}, which is trained: {line}"
            for past, now in zip_longest(begun, recipe.begun(manifest.step), fillvalue={})
            for line in difference(past, now)
        ]
    return differs


def _beginning(first: int, total: int) -> str:
    if first == total:
        return f"complete: all {total:,} steps are trained, nothing is left to do"
    return f"continuing after step {first:,} of {total:,}" if first else f"training {total:,} steps"

"""What a run says of itself before the first step and after the last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh

from llama3_jax.batches.source import Tally
from llama3_jax.commands.data import RunData
from llama3_jax.commands.run import TrainRun
from llama3_jax.commands.run_directory import CHECKPOINTS, TOKENIZER, checkpoints_of
from llama3_jax.commands.sampler import shown
from llama3_jax.commands.xla import in_effect
from llama3_jax.kernels.attention.choice import described
from llama3_jax.kernels.device import device_of
from llama3_jax.train.abstract import bytes_per_device
from llama3_jax.train.goodput import Goodput
from llama3_jax.train.loop import Outcome, Recipe
from llama3_jax.train.progress import format_duration


def before(run: TrainRun, recipe: Recipe, data: RunData, mesh: Mesh, peak: float) -> Iterator[str]:
    """Lines: model, machine, memory, schedule, data."""
    model, device = run.model, mesh.devices.flat[0]
    yield (
        f"model: {model.num_parameters:,} parameters, {model.num_layers} layers of width {model.model_dim}, "
        f"{model.num_heads} heads over {model.num_kv_heads} key/value heads, {model.vocab_size:,} tokens"
    )
    attention = described(run.attention, head_dim=model.head_dim, dtype=run.precision.dtype, device=device_of(mesh))
    yield (
        f"machine: {mesh.size} x {device.device_kind}, mesh {recipe.mesh_config(0)}, {run.precision.value} compute, "
        f"attention {attention}, matmul peak measured {_si(peak)}FLOP/s"
    )
    if told := in_effect(run.xla):
        yield told
    held = bytes_per_device(recipe.abstract_state(0, mesh))
    yield f"memory per device: {_si(held)}B of parameters and optimizer state, activations are told when a step is compiled"
    yield f"schedule: {recipe.num_steps:,} steps, {recipe.num_tokens:,} tokens, {_si(_flops(recipe))}FLOPs"
    for span in recipe.spans:
        stage = span.stage
        yield (
            f"  {recipe.phases[span.phase].name}/{stage.name}: {span.num_steps:,} steps of {stage.num_rows} x "
            f"{stage.sequence_length:,} tokens, {span.end_token - span.first_token:,} tokens"
        )
    yield f"data: packing {run.packing.value}"
    for name, source in data.train.items():
        tokens = recipe.spans[-1].stretches[name].end
        limit = (run.max_epochs or {}).get(name)
        tally = sum((span.stretches[name].tally for span in recipe.spans), Tally())
        yield (
            f"  source {name}: {tokens:,} of {source.num_tokens:,} tokens, {tokens / source.num_tokens:.2f} epochs"
            f"{'' if limit is None else f' of at most {limit:g}'}, {source.stream.num_documents:,} documents; "
            f"{_packed(tally)}"
        )


def require_epochs(run: TrainRun, recipe: Recipe, data: RunData) -> None:
    """Raises: ValueError naming every source that the schedule reads more often than `max_epochs` allows."""
    problems = []
    for name, limit in (run.max_epochs or {}).items():
        tokens, size = recipe.spans[-1].stretches[name].end, data.train[name].num_tokens
        if tokens > limit * size:
            problems.append(
                f"source {name} would be read {tokens / size:.2f} times ({tokens:,} of {size:,} tokens), max_epochs.{name}="
                f"{limit:g} allows less; give it more data, a smaller weight in the mix or fewer tokens to train on, or raise "
                f"max_epochs.{name}"
            )
    if problems:
        raise ValueError("; ".join(problems))


def after(
    directory: Path,
    outcome: Outcome,
    scores: Mapping[str, float],
    samples: Mapping[str, tuple[str, str]],
    goodput: Goodput,
    peak: float,
) -> Iterator[str]:
    """Lines: what the model writes and scores, the speed of this process's steps, where time went, where things lie."""
    for source, (prompt, text) in samples.items():
        yield f"--- {source} ---\n{shown(prompt, text)}\n"
    averaged = outcome.learner.num_averaged
    model = f"average of {averaged} models" if averaged else "last model"
    yield f"held-out ({model}): {scores['eval_loss']:.3f} nats/token, {scores['bits_per_byte']:.3f} bits/byte"
    for source in samples:
        yield f"  {source}: {scores[f'eval_loss/{source}']:.3f} nats/token, {scores[f'bits_per_byte/{source}']:.3f} bits/byte"
    if outcome.seconds:
        rate = outcome.flops / outcome.seconds
        devices = 1 if jax.devices()[0].platform == "cpu" else outcome.mesh.size
        yield (
            f"speed: {outcome.tokens / outcome.seconds:,.0f} tokens/s, {_si(rate)}FLOP/s of the model, "
            f"{rate / (peak * devices):.0%} of the measured matmul peak"
        )
    yield f"time: {format_duration(goodput.total_s)} in all"
    yield goodput.table()
    yield f"run directory: {directory}"
    checkpoints = checkpoints_of(directory)
    of_checkpoints = f"{CHECKPOINTS}/" if checkpoints == directory / CHECKPOINTS else str(checkpoints)
    for place, what in {of_checkpoints: "parameters, optimizer state, average", **PLACES}.items():
        yield f"  {place:<16} {what}"
    yield f'try it: llama3 generate {directory} --prompt "import "'


PLACES = {
    TOKENIZER: "the vocabulary, in tiktoken's format",
    "data/": "token shards, if the run made them",
    "plots/": "loss, learning rate, batch and sequence length, throughput, gradient norm",
    "metrics.jsonl": "a line for each step and evaluation",
    "tensorboard/": "the same: tensorboard --logdir",
    "samples/": "text the model wrote as it was trained",
    "config.yaml": "every value of the run and where it came from",
    "log.txt": "what was printed",
}


def _packed(tally: Tally) -> str:
    """Waste and truncation in words."""
    if not tally.positions:
        return "not in any mix"
    read = max(tally.tokens + tally.dropped, 1)
    return (
        f"padding {1 - tally.tokens / tally.positions:.2%} of positions, {tally.dropped / read:.2%} of tokens dropped, "
        f"{tally.cut:,} of {tally.documents:,} documents cut ({tally.cut / max(tally.documents, 1):.1%})"
    )


def _flops(recipe: Recipe) -> float:
    """Of the whole schedule, with causal attention over whole rows: documents make it less."""
    return sum(
        (span.end_token - span.first_token) * recipe.model.flops_per_token(span.stage.sequence_length / 2)
        for span in recipe.spans
    )


def _si(value: float) -> str:
    """12_300_000 -> `12.3 M`."""
    if value <= 0:
        return f"{value:.0f} "
    power = min(int(math.log10(value) // 3), 8)
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'][power]}"

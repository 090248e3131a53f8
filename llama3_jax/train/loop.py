"""The training loop: spans of steps, phase by phase, with saving, evaluation and what is seen along the way."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.timeline import Span
from llama3_jax.checkpoint.manifest import Manifest
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.config.tree import to_mapping
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import RULES, make_mesh, spec
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.average import Average
from llama3_jax.train.diverged import TrainingDiverged
from llama3_jax.train.gate import PhaseEnd, PhaseNotPassed
from llama3_jax.train.goodput import Goodput
from llama3_jax.train.journal import Journal
from llama3_jax.train.learning_rate import learning_rates
from llama3_jax.train.objective import NextToken
from llama3_jax.train.phase import Phase
from llama3_jax.train.preemption import Insisted, Interrupted, Preemption
from llama3_jax.train.progress import Progress
from llama3_jax.train.spikes import SpikeWatch
from llama3_jax.train.step import StepFunction, TrainState
from llama3_jax.train.stopping import told_to_stop


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the numbers of a run."""

    model: ModelConfig
    phases: Sequence[Phase]
    spans: Sequence[Span]
    optimizer: AdamW
    mesh: MeshConfig
    seed: int
    precision: Precision
    attention: Implementation
    max_skipped_steps: int
    """Steps with non-finite gradients that are skipped before the run is stopped."""

    def model_config(self, phase: int) -> ModelConfig:
        """The architecture in a phase: a rotary scaling stays on once it was switched on."""
        scalings = [each.rope_scaling for each in self.phases[: phase + 1] if each.rope_scaling]
        return dataclasses.replace(self.model, rope_scaling=scalings[-1]) if scalings else self.model

    def mesh_config(self, phase: int) -> MeshConfig:
        return ([self.mesh] + [each.mesh for each in self.phases[: phase + 1] if each.mesh])[-1]

    def abstract_state(self, phase: int, mesh: Mesh) -> TrainState:
        """The train state of a phase as shapes, dtypes and shardings on `mesh`."""
        return abstract_state(self.model_config(phase), self.optimizer, mesh)

    def begun(self, step: int) -> list[dict[str, Any]]:
        """The records of the stages that the first `step` steps are of."""
        return [span.record() for span in self.spans if span.first_step < min(step, span.end_step)]

    @property
    def num_steps(self) -> int:
        return self.spans[-1].end_step

    @property
    def num_tokens(self) -> int:
        return self.spans[-1].end_token


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the loop talks to."""

    store: CheckpointStore
    save_every: int
    journal: Journal
    progress: Progress
    say: Callable[[str], None]
    goodput: Goodput
    preemption: Preemption
    batches: Callable[[Span, NamedSharding, int, int], Iterator[Batch]]
    """(span, sharding, micro-batches, first step) -> its global batches [A, B, S]."""
    initial_model: Callable[[Transformer], Transformer]
    """What a new run begins with, given fresh parameters."""
    warm_up: Callable[[Transformer, Mesh], None]
    """Compiles `evaluate` for models of these shapes, where a signal may cut that off."""
    evaluate: Callable[[Transformer, Mesh], Mapping[str, float]]
    evaluate_every: int
    sample: Callable[[Transformer, Mesh], Mapping[str, str]]
    """(model, its mesh) -> texts by name"""
    sample_every: int
    plot: Callable[[], None]
    """Draws the journal, after each phase."""
    meta: Mapping[str, Any]
    """Stored in every checkpoint beside the cursor."""


@dataclass
class Learner:
    """What a checkpoint holds: all that a run remembers from one step to the next."""

    state: TrainState
    average: Average | None = None
    spikes: SpikeWatch = dataclasses.field(default_factory=SpikeWatch)
    phase_ends: list[PhaseEnd] = dataclasses.field(default_factory=list)
    """Of the phases that ended, with what their gates decided."""
    looked: bool = True
    """Whether all that was due after the last step was seen and written: evaluation, samples, plots."""

    def tree(self) -> dict[str, Any]:
        """The arrays."""
        return {"state": self.state} | ({} if self.average is None else {"average": self.average})

    def notes(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        return {
            "averaged": self.num_averaged,
            "recent_losses": self.spikes.recent,
            "phase_ends": [dataclasses.asdict(end) for end in self.phase_ends],
            "looked": self.looked,
        }

    @property
    def best(self) -> Transformer:
        """The average where there is one, else the parameters."""
        return self.average.model if self.num_averaged else self.state.model

    @property
    def num_averaged(self) -> int:
        return 0 if self.average is None else int(self.average.count)


@dataclass
class Outcome:
    learner: Learner
    mesh: Mesh
    tokens: int = 0
    """Positions trained on by this process, compile steps left out; likewise below."""
    seconds: float = 0.0
    flops: float = 0.0


def train(recipe: Recipe, around: Surroundings, *, resume: tuple[Path, Manifest] | None) -> Outcome:
    """Runs the recipe from its beginning or from a verified checkpoint, to its end.

    Raises: Interrupted after saving, when a signal asked for it; TrainingDiverged beyond the budget of skipped steps.
    """
    return _Loop(recipe, around, resume).run()


class _Loop:
    def __init__(self, recipe: Recipe, around: Surroundings, resume: tuple[Path, Manifest] | None):
        self.recipe = recipe
        self.around = around
        self.rate = learning_rates(
            [
                (phase.learning_rate, sum(span.num_steps for span in recipe.spans if span.phase == number))
                for number, phase in enumerate(recipe.phases)
            ]
        )
        self.lag = 0 if jax.devices()[0].platform == "cpu" else 1  # an accelerator computes while we read the step before
        self.compiled: dict[tuple, Any] = {}
        self.warm: tuple | None = None
        """What the evaluation is compiled for."""
        self.include = jax.jit(Average.include, donate_argnums=0)
        self.first, self.phase = (resume[1].step, resume[1].meta["cursor"]["phase"]) if resume else (0, None)
        self.done = self.saved = self.first
        self.pending: collections.deque[tuple] = collections.deque()
        """Steps whose metrics are not read yet."""
        self.clock = 0.0
        with around.goodput.span("start_up"):
            phase = self.phase if resume else recipe.spans[0].phase
            mesh = make_mesh(recipe.mesh_config(phase))
            learner = self._restore(recipe.abstract_state(phase, mesh), *resume) if resume else self._create(mesh, phase)
        self.out = Outcome(learner, mesh)
        self.skipped = int(learner.state.skipped)

    def run(self) -> Outcome:
        if self.first < self.recipe.num_steps:
            self.around.store.require_space(self.out.learner.tree())  # better known now than at the first save
        for span in self.recipe.spans:
            if self.first and span.first_step < self.first <= span.end_step:
                self._catch_up(span)
            if span.end_step > self.first:
                self._enter(span.phase)
                with jax.set_mesh(self.out.mesh):
                    self._run_span(span, max(self.first, span.first_step))
        self.around.store.wait()
        return self.out

    def _create(self, mesh: Mesh, phase: int) -> Learner:
        cfg, recipe = self.recipe.model_config(phase), self.recipe
        with jax.set_mesh(mesh):
            make = jax.jit(lambda key: TrainState.create(Transformer(cfg, key=key), recipe.optimizer))
            state = make(jax.random.key(recipe.seed))
            return Learner(state.replace(model=self.around.initial_model(state.model)))

    def _restore(self, abstract: TrainState, path: Path, manifest: Manifest) -> Learner:
        like = {"state": abstract}
        if any(name.startswith("average.") for name in manifest.arrays):
            like["average"] = Average(model=abstract.model, count=abstract.step)
        notes = manifest.meta
        return Learner(
            **restore(path, manifest, like), spikes=SpikeWatch(notes["recent_losses"]),
            phase_ends=[PhaseEnd(**end) for end in notes["phase_ends"]], looked=notes["looked"],
        )  # fmt: skip

    def _enter(self, phase: int) -> None:
        """Takes the state into a phase: its mesh, its rotary scaling, an empty average if it keeps one."""
        if phase == self.phase:
            return
        learner = self.out.learner
        self.out.mesh = mesh = make_mesh(self.recipe.mesh_config(phase))
        abstract = self.recipe.abstract_state(phase, mesh)
        leaves = jax.device_put(jax.tree.leaves(learner.state), [leaf.sharding for leaf in jax.tree.leaves(abstract)])
        learner.state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        with jax.set_mesh(mesh):
            learner.average = jax.jit(Average.empty)(learner.state.model) if self._averages(phase) else None
        self.phase = phase

    def _averages(self, phase: int) -> bool:
        return self.recipe.phases[phase].average_every is not None

    def _catch_up(self, span: Span) -> None:
        """What a checkpoint asks for before the next step: a look that a signal put off, and its gate once more."""
        with self.around.preemption.deferred():
            if not self.out.learner.looked:
                self._look(span)
            elif self.done == self._last_step(span.phase):
                self._repeat_gate(span.phase)
            self._require_passed(span.phase)

    def _run_span(self, span: Span, first: int) -> None:
        """Until here all that is trained is saved, or being saved: a signal while compiling ends the run at once."""
        around = self.around
        step_function, compile_s = self._compile(span)
        self._warm_up(span)
        batches = around.batches(span, self._rows_sharding(), self._microbatches(span), first)
        with around.preemption.deferred():
            self.clock = time.perf_counter()
            try:
                for step in range(first, span.end_step):
                    with around.preemption.window(), around.goodput.span("data_wait"):
                        batch = next(batches)
                    self._step(span, step, step_function, batch, compile_s if step == first else 0.0)
                    self._after_step(span)
                    if told := told_to_stop(around.preemption.requested, self.done, self.lag):
                        raise Interrupted(f"stopped by {told}")
            except Insisted:
                raise
            except Interrupted as stop:
                self._drain(span)
                if self.saved < self.done:
                    self._save(span)
                around.store.wait()
                raise Interrupted(f"{stop} after step {self.done}") from None

    def _step(self, span: Span, step: int, function: StepFunction, batch: Batch, compile_s: float) -> None:
        learner, rate = self.out.learner, self.rate(step)
        with self.around.goodput.span("step"):
            learner.state, metrics = function(learner.state, batch, np.float32(rate))
            self.done, learner.looked = step + 1, False
            self.pending.append((step, metrics, rate, {"compile_s": compile_s} if compile_s else {}))
            self._drain(span, self.lag)
            every = self.recipe.phases[span.phase].average_every
            if every and ((self.done - self._first_step(span.phase)) % every == 0 or self.done == self._last_step(span.phase)):
                learner.average = self.include(learner.average, learner.state.model)

    def _after_step(self, span: Span) -> None:
        """Looks and saves where that is due, and stops where a signal asked for it."""
        around, done = self.around, self.done
        save = done % around.save_every == 0 or done == span.end_step
        if save or done % around.evaluate_every == 0 or done % around.sample_every == 0:
            self._drain(span)
            self._look(span)
            if save:
                self._save(span)
            self._require_passed(span.phase)
            self.clock = time.perf_counter()
        else:
            self.out.learner.looked = True  # nothing was due

    def _first_step(self, phase: int) -> int:
        return min(span.first_step for span in self.recipe.spans if span.phase == phase)

    def _last_step(self, phase: int) -> int:
        return max(span.end_step for span in self.recipe.spans if span.phase == phase)

    def _rows_sharding(self) -> NamedSharding:
        return NamedSharding(self.out.mesh, spec(None, "batch", "position"))

    def _microbatches(self, span: Span) -> int:
        return span.stage.microbatches(self.out.mesh.shape[RULES.batch])

    def _compile(self, span: Span) -> tuple[Any, float]:
        """The compiled step for the shape of a span and the phase it is in, and the seconds that took."""
        recipe, stage = self.recipe, span.stage
        phase = recipe.phases[span.phase]
        pieces = self._microbatches(span)
        shape = (pieces, stage.num_rows // pieces, stage.sequence_length)
        key = (shape, recipe.model_config(span.phase), recipe.mesh_config(span.phase), phase.remat, phase.fsdp)
        if key in self.compiled:
            return self.compiled[key], 0.0
        started = time.perf_counter()
        with self.around.goodput.span("compile"):
            objective = NextToken(precision=recipe.precision, remat=phase.remat, fsdp=phase.fsdp, attention=recipe.attention)
            program = compile_step(objective, recipe.optimizer, self.out.learner.state, shape, self.out.mesh)
        self.compiled = {key: program}
        memory = program.memory_analysis()
        seconds, temporary = time.perf_counter() - started, getattr(memory, "temp_size_in_bytes", 0)
        self.around.say(
            f"{phase.name}/{stage.name}: compiled in {seconds:.1f} s, {temporary / 2**20:,.0f} MiB per device beside the state"
        )
        return program, seconds

    def _warm_up(self, span: Span) -> None:
        """Evaluation is compiled here, not when it is due: what was trained by then could not be saved before XLA is done."""
        key = (self.recipe.model_config(span.phase), self.recipe.mesh_config(span.phase))
        if key != self.warm:
            with self.around.goodput.span("compile"):
                self.around.warm_up(self.out.learner.state.model, self.out.mesh)
            self.warm = key

    def _drain(self, span: Span, leave: int = 0) -> None:
        """Records the steps whose metrics were not read yet, but for the last `leave`."""
        with self.around.goodput.span("step"):
            while len(self.pending) > leave:
                self._record(span, *self.pending.popleft())

    def _record(self, span: Span, step: int, metrics: dict, rate: float, extra: dict) -> None:
        """Waits for a step's metrics and tells everyone."""
        stage, around = span.stage, self.around
        metrics = jax.device_get(metrics)
        batch_hash = f"{int(metrics.pop('batch_hash')):08x}"
        values = {name: float(value) for name, value in metrics.items()}
        now = time.perf_counter()
        seconds, done = now - self.clock, step + 1
        self.clock = now
        visible = values.pop("visible_pairs") / stage.tokens_per_step
        record = {
            "step": done,
            "phase": self.recipe.phases[span.phase].name,
            "stage": stage.name,
            "tokens": self._tokens(span, done),
            **values,
            "batch_hash": batch_hash,
            "learning_rate": rate,
            "sequence_length": stage.sequence_length,
            "batch_tokens": stage.tokens_per_step,
            "tokens_per_s": stage.tokens_per_step / seconds,
            "visible_keys": visible,
            **extra,
        }
        if note := self.out.learner.spikes.note(values["loss"]):
            record["spike"] = 1
            around.say(f"step {done}: {note}")
        around.journal.step(record)
        around.progress.step(done, record)
        self.out.tokens += stage.tokens_per_step
        self.out.seconds += seconds
        self.out.flops += stage.tokens_per_step * self.recipe.model.flops_per_token(visible)
        if values["skipped"]:
            self._skipped(done)

    def _skipped(self, step: int) -> None:
        self.skipped += 1
        self.around.say(
            f"batch {step} gave gradients that are not finite and was skipped ({self.skipped} of at most "
            f"{self.recipe.max_skipped_steps})"
        )
        if self.skipped > self.recipe.max_skipped_steps:
            raise TrainingDiverged(
                f"{self.skipped} steps had gradients that are not finite, the last one batch {step}; max_skipped_steps="
                f"{self.recipe.max_skipped_steps} allows no more. Look at that batch; allow more and run again to continue "
                "from the last checkpoint, or start another run (name=...) with a lower learning rate"
            )

    def _look(self, span: Span) -> None:
        """Evaluation, samples and plots, where they are due after the last step, and what a gate makes of them."""
        around, learner, done = self.around, self.out.learner, self.done
        ends_phase = done == self._last_step(span.phase)
        if done % around.evaluate_every == 0 or done == span.end_step:
            with around.preemption.window(), around.goodput.span("evaluate"):
                scores = around.evaluate(learner.state.model, self.out.mesh)
                if learner.num_averaged:
                    averaged = around.evaluate(learner.average.model, self.out.mesh)
                    scores = {**scores, **{f"average/{name}": value for name, value in averaged.items()}}
            record = {"step": done, "tokens": self._tokens(span, done), **scores}
            around.say(
                f"step {done}: held-out loss {scores['eval_loss']:.3f} nats/token, {scores['bits_per_byte']:.3f} bits/byte"
            )
            if ends_phase:
                record |= self._end_phase(span.phase, scores["eval_loss"]).record()
            around.journal.evaluation(record)
        if done % around.sample_every == 0 and done < self.recipe.num_steps:
            with around.preemption.window(), around.goodput.span("sample"):
                texts = around.sample(learner.state.model, self.out.mesh)
            around.journal.samples(done, texts)
            for name, text in texts.items():
                around.say(f"step {done}, {name}: {text}".replace("\n", "\\n"))
        if ends_phase:
            with around.preemption.window(), around.goodput.span("plots"):
                around.plot()
        learner.looked = True

    def _end_phase(self, phase: int, eval_loss: float) -> PhaseEnd:
        """Notes the end of a phase, and decides its gate."""
        name, gate, ends = self.recipe.phases[phase].name, self.recipe.phases[phase].gate, self.out.learner.phase_ends
        ends[:] = [end for end in ends if end.phase != name]  # of a look that was cut off
        end = PhaseEnd(phase=name, eval_loss=eval_loss)
        if gate is not None:
            increase = eval_loss - ends[-1].eval_loss
            end = dataclasses.replace(end, increase=increase, max_increase=gate.max_increase)
            self.around.say(str(end))
        ends.append(end)
        return end

    def _repeat_gate(self, phase: int) -> None:
        """The decision stored at the end of a phase holds, unless its gate was changed since: then it is made again, of
        the losses that were measured then."""
        end, gate = self.out.learner.phase_ends[-1], self.recipe.phases[phase].gate
        if end.max_increase != (gate and gate.max_increase):
            end = self._end_phase(phase, end.eval_loss)
            if gate is not None:
                self.around.journal.evaluation({"step": self.done, **end.record()})

    def _require_passed(self, phase: int) -> None:
        """Raises: PhaseNotPassed, with everything saved."""
        ends = self.out.learner.phase_ends
        if self.done == self._last_step(phase) and not ends[-1].passed:
            self.around.store.wait()
            raise PhaseNotPassed(
                f"{ends[-1]}. The end of the phase is saved. Look at its held-out scores; to go on all the same, run again with "
                f"phases.{phase}.gate.max_increase={ends[-1].increase:.4f} or more (or phases.{phase}.gate=null), to change the "
                "phase start another run (name=...)"
            )

    def _save(self, span: Span) -> None:
        done, learner = self.done, self.out.learner
        cursor = {
            "phase": self.phase, "stage": span.stage.name, "step": done, "tokens": self._tokens(span, done),
            "rows": span.rows(done), "begun": self.recipe.begun(done),
        }  # fmt: skip
        model = to_mapping(self.recipe.model_config(self.phase))
        meta = {**self.around.meta, "model": model, "cursor": cursor, **learner.notes()}
        with self.around.goodput.span("checkpoint"):
            self.around.store.save(done, learner.tree(), meta)
        self.saved = done

    @staticmethod
    def _tokens(span: Span, done: int) -> int:
        """Positions trained on after step `done`."""
        return span.first_token + (done - span.first_step) * span.stage.tokens_per_step

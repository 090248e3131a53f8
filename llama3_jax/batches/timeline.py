"""When each stage begins and ends, and where in every source it reads: known before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama3_jax.batches.mix import Mix
from llama3_jax.batches.source import Source, Stretch
from llama3_jax.batches.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Span:
    """One stage placed in the run."""

    phase: int
    stage: Stage
    first_step: int
    """Steps of the run before it."""
    num_steps: int
    first_token: int
    """Positions trained on before it."""
    mix: Mix
    stretches: Mapping[str, Stretch]
    """What it reads from each source, in the run's order."""

    @property
    def end_step(self) -> int:
        return self.first_step + self.num_steps

    @property
    def end_token(self) -> int:
        return self.first_token + self.num_steps * self.stage.tokens_per_step

    def rows(self, step: int) -> dict[str, int]:
        """Rows taken from each source between the stage's start and step `step` of the run."""
        counts = self.mix.counts((step - self.first_step) * self.stage.num_rows)
        return {name: int(count) for name, count in zip(self.stretches, counts, strict=True)}

    def record(self) -> dict[str, Any]:
        """What its batches depend on, as JSON values: of two runs that agree in it, one can go on where the other was."""
        slots = self.mix.slots
        return {
            "phase": self.phase, "stage": self.stage.name, "first_step": self.first_step, "num_steps": self.num_steps,
            "sequence_length": self.stage.sequence_length, "tokens_per_step": self.stage.tokens_per_step, "mix": slots,
            "order": {name: self.stretches[name].order for name in slots},
            "positions": {name: self.stretches[name].start for name in slots},
        }  # fmt: skip


def timeline(phases: Sequence[Sequence[Stage]], sources: Mapping[str, Source]) -> tuple[Span, ...]:
    """Places the stages of all phases one after the other.

    A stage ends at the first step boundary at or after the sum of the token counts up to it, and starts reading each
    source where the stage before stopped. The first mix, where none is given, follows the sizes of the sources.

    Raises: ValueError if a mix names an unknown source.
    """
    spans: list[Span] = []
    step = token = planned = 0
    positions = dict.fromkeys(sources, 0)
    weights: Mapping[str, float] = {name: source.num_tokens for name, source in sources.items()}
    for number, stages in enumerate(phases):
        for stage in stages:
            planned += stage.tokens
            weights = stage.mix or weights
            num_steps = max(0, -(-(planned - token) // stage.tokens_per_step))
            mix = Mix(weights, tuple(sources))
            counts = mix.counts(num_steps * stage.num_rows).tolist()
            stretches = {
                name: source.stretch(positions[name], count, stage.sequence_length)
                for (name, source), count in zip(sources.items(), counts, strict=True)
            }
            span = Span(
                phase=number, stage=stage, first_step=step, num_steps=num_steps, first_token=token, mix=mix, stretches=stretches
            )
            step, token, positions = span.end_step, span.end_token, {name: each.end for name, each in stretches.items()}
            spans.append(span)
    return tuple(spans)

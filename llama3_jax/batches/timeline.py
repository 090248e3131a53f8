"""When each stage begins and ends, and where in every source it reads: known before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama3_jax.batches.mix import Mix
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
    positions: tuple[int, ...]
    """Token position in each source's stream at its start."""

    @property
    def end_step(self) -> int:
        return self.first_step + self.num_steps

    @property
    def end_token(self) -> int:
        return self.first_token + self.num_steps * self.stage.tokens_per_step

    def source_positions(self, step: int) -> tuple[int, ...]:
        """Tokens taken from each source's stream before step `step`; at a stage's start, where its stretch begins."""
        rows = self.mix.counts((step - self.first_step) * self.stage.num_rows)
        return tuple(int(p + n * self.stage.sequence_length) for p, n in zip(self.positions, rows, strict=True))


def timeline(phases: Sequence[Sequence[Stage]], *, sizes: Mapping[str, int]) -> tuple[Span, ...]:
    """Places the stages of all phases one after the other.

    A stage ends at the first step boundary at or after the sum of the token counts up to it, and starts reading each
    source where the stage before stopped.

    Args:
        sizes: tokens of each source, in the run's order; the mix of a stage that has none follows them.
    Raises: ValueError if a mix names an unknown source.
    """
    spans: list[Span] = []
    step = token = planned = 0
    positions = (0,) * len(sizes)
    weights: Mapping[str, float] = sizes
    for number, stages in enumerate(phases):
        for stage in stages:
            planned += stage.tokens
            weights = stage.mix or weights
            num_steps = max(0, -(-(planned - token) // stage.tokens_per_step))
            span = Span(
                phase=number, stage=stage, first_step=step, num_steps=num_steps, first_token=token,
                mix=Mix(weights, tuple(sizes)), positions=positions,
            )  # fmt: skip
            step, token, positions = span.end_step, span.end_token, span.source_positions(span.end_step)
            spans.append(span)
    return tuple(spans)

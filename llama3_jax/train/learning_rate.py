"""The learning rate of a phase as a function of its steps (section 3.4). Steps are counted from 0 inside the phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Rule = Callable[[int], float]
"""Step of the phase -> learning rate."""


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to `final`, constant after `steps`."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    peak: float
    final: float
    warmup_steps: int
    steps: int
    """Length of the whole curve, warm-up included."""

    def __post_init__(self) -> None:
        if not 0 <= self.final <= self.peak:
            raise ValueError(f"final={self.final} and peak={self.peak}: use 0 <= final <= peak")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} and steps={self.steps}: use 0 <= warmup_steps < steps")

    def rule(self, *, before: Rule, first_step: int, num_steps: int) -> Rule:
        def rate(step: int) -> float:
            if step < self.warmup_steps:
                return self.peak * (step + 1) / self.warmup_steps
            done = min(1.0, (step - self.warmup_steps) / (self.steps - self.warmup_steps))
            return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * done))

        return rate


@dataclass(frozen=True, kw_only=True)
class Continue:
    """The rule of the phase before goes on, as if there were no boundary."""

    kind: Literal["continue"] = "continue"

    def rule(self, *, before: Rule, first_step: int, num_steps: int) -> Rule:
        return lambda step: before(first_step + step)


@dataclass(frozen=True, kw_only=True)
class LinearTo:
    """Linear from where the phase before would be to `final`, which the last step of the phase reaches."""

    kind: Literal["linear_to"] = "linear_to"
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.final < 0:
            raise ValueError(f"final={self.final} is negative; anneal to 0 or more")

    def rule(self, *, before: Rule, first_step: int, num_steps: int) -> Rule:
        top = before(first_step)
        return lambda step: top + (self.final - top) * (step + 1) / num_steps


LearningRate = WarmupCosine | Continue | LinearTo


def learning_rates(phases: list[tuple[LearningRate, int]]) -> Rule:
    """Joins the rules of (rule, number of steps) phases into one function of the step of the run."""
    rules: list[tuple[int, Rule]] = []
    first = previous = 0
    before: Rule = lambda step: 0.0  # noqa: E731
    for learning_rate, num_steps in phases:
        before = learning_rate.rule(before=before, first_step=first - previous, num_steps=num_steps)
        rules.append((first, before))
        previous, first = first, first + num_steps

    def rate(step: int) -> float:
        start, rule = next(entry for entry in reversed(rules) if entry[0] <= step)
        return rule(step - start)

    return rate

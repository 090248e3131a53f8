"""The gate at the end of a phase: the run goes on only if the model is as good as it was before (section 3.4.2).

The paper lengthens the context step by step and goes on when the model has adapted: when its scores on short contexts are
what they were, and it finds needles in the longer ones. The first is asked here, of the held-out loss, whose rows have
one length throughout a run; how much is forgiven is ours to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class PhaseNotPassed(RuntimeError):
    """A phase ended with a model that its gate does not let into the next one."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    max_increase: float
    """Nats per token by which the held-out loss may exceed that at the end of the phase before; negative asks for progress."""

    def __post_init__(self) -> None:
        if not abs(self.max_increase) < float("inf"):
            raise ValueError(f"max_increase={self.max_increase}; use a number of nats per token, or gate: null")


@dataclass(frozen=True, kw_only=True)
class PhaseEnd:
    """What was found at the end of a phase, and decided. Part of the train state: a run that continues repeats it."""

    phase: str
    eval_loss: float
    """Held-out, nats per token."""
    increase: float | None = None
    """Of the held-out loss over that of the phase before; None where no gate asked."""
    max_increase: float | None = None

    @property
    def passed(self) -> bool:
        return self.max_increase is None or self.increase <= self.max_increase

    def record(self) -> Mapping[str, float]:
        """The decision for the journal; empty where no gate asked."""
        if self.max_increase is None:
            return {}
        return {"gate_increase": self.increase, "gate_max_increase": self.max_increase, "gate_passed": int(self.passed)}

    def __str__(self) -> str:
        return (
            f"phase {self.phase} ended with a held-out loss of {self.eval_loss:.4f} nats/token, {self.increase:+.4f} from the "
            f"phase before; its gate lets {self.max_increase:+.4f} pass: {'passed' if self.passed else 'NOT PASSED'}"
        )

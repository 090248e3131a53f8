"""What takes part in a comparison of training steps."""

from __future__ import annotations

from typing import Protocol

from llama3_jax.batches.batch import Batch


class Contender(Protocol):
    """A training step with its own copy of the parameters; all begin with the same."""

    name: str
    compile_s: float | None
    """To compile; of torch.compile, how much longer its first step took than its second. None where nothing compiles."""
    peak_bytes: int | None
    """Of one device, parameters and optimizer state included; None where it is not known."""

    def step(self, batch: Batch) -> float:
        """Takes one step on a batch of NumPy arrays [1, B, S] and returns its loss: nats per supervised token."""
        ...

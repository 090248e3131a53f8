"""What a training run leaves, as a value for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    directory: Path
    scores: dict[str, float]
    """Of the final model on held-out documents: `eval_loss` (nats per token), `bits_per_byte`, both per source too."""
    samples: dict[str, tuple[str, str]]
    """Source -> (prompt, continuation)."""

"""Averages of checkpoints, in float32 and array by array: no more than two of the largest arrays are read at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama3_jax.checkpoint.manifest import Manifest
from llama3_jax.checkpoint.restore import read_array

Checkpoint = tuple[Path, Manifest, str]
"""Where it is, its manifest, and the prefix of the parameters that are wanted of it, e.g. `state.model.`."""


def average(checkpoints: Sequence[Checkpoint], *, decay: float | None = None) -> dict[str, np.ndarray]:
    """Float32 average of the parameters of verified checkpoints, by name without the prefix.

    Args: decay: None for the mean (section 3.4.3); else of an exponential average, oldest first: each checkpoint enters
        with weight 1 - decay, the first with 1.
    Raises: ValueError listing what differs between models that are not of one shape, or for a decay outside [0, 1).
    """
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"decay={decay}; use 0 <= decay < 1")
    shapes = _require_same(checkpoints)
    averaged = {}
    for name in shapes:
        mean = np.zeros(shapes[name], np.float32)
        for number, (path, _, prefix) in enumerate(checkpoints):
            weight = np.float32(1 / (number + 1) if decay is None else 1 - decay if number else 1)
            mean += weight * (read_array(path, prefix + name).astype(np.float32) - mean)
        averaged[name] = mean
    return averaged


def _require_same(checkpoints: Sequence[Checkpoint]) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters, which all must have."""
    (first, *_), expected, wrong = checkpoints[0], _shapes(checkpoints[0]), []
    for checkpoint in checkpoints[1:]:
        found = _shapes(checkpoint)
        wrong += [
            f"{name} is {found.get(name, 'missing')} in {checkpoint[0]} and {expected.get(name, 'missing')} in {first}"
            for name in sorted(expected.keys() | found.keys())
            if found.get(name) != expected.get(name)
        ]
    if wrong:
        raise ValueError("checkpoints of different models cannot be averaged: " + "; ".join(wrong))
    return expected


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    _, manifest, prefix = checkpoint
    shapes = {name: tuple(shape) for name, (_, shape) in manifest.arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): shape for name, shape in shapes.items()}

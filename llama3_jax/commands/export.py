"""`llama3 checkpoint average` and `export-weights`: parameters alone, in a directory that generates like a run's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_jax.checkpoint.folder import PARTIAL
from llama3_jax.checkpoint.manifest import Directory, Manifest, verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.commands.run_directory import CHECKPOINTS, TOKENIZER, checkpoints_of
from llama3_jax.tokenizer.object_store import is_url, located

if TYPE_CHECKING:
    import numpy as np


def average_checkpoints(
    directory: str | Path, steps: Sequence[int] = (), *, decay: float | None = None, out: str | Path | None = None
) -> Path:
    """Averages the parameters of checkpoints in float32: the same as `llama3 checkpoint average`.

    Args:
        steps: of the checkpoints; none takes all that are there.
        decay: of an exponential average, oldest first; None takes the mean.
        out: a directory that does not exist yet; None makes one inside `directory`.
    Raises: FileNotFoundError for a step that is not there; ValueError for a damaged one, for different models or if
        `out` exists.
    """
    from llama3_jax.checkpoint.mean import average

    directory = located(directory)
    steps = sorted(set(steps or _steps(directory)))
    checkpoints = [_verified(directory, step) for step in steps]
    name = "average" if decay is None else f"exponential-{decay:g}"
    out = _new(directory, out, f"{name}-{steps[0]:08d}-{steps[-1]:08d}")
    averaged = average([(path, manifest, "state.model.") for path, manifest in checkpoints], decay=decay)
    return _write(out, directory, checkpoints[-1][1], averaged, {"steps": steps, "decay": decay})


def export_weights(directory: str | Path, *, step: int | None = None, out: str | Path | None = None) -> Path:
    """Writes the parameters of a checkpoint, the run's own average where it has one: `llama3 checkpoint export-weights`.

    Args: step: None takes the newest; out: as `average_checkpoints`.
    Raises: as `average_checkpoints`.
    """
    from llama3_jax.checkpoint.restore import read_array

    directory = located(directory)
    path, manifest = _verified(directory, _steps(directory)[-1] if step is None else step)
    out = _new(directory, out, f"weights-{manifest.step:08d}")
    prefix = parameters_prefix(manifest)
    names = [name for name in manifest.arrays if name.startswith(prefix)]
    weights = {name.removeprefix(prefix): read_array(path, name) for name in names}
    return _write(out, directory, manifest, weights, {"steps": [manifest.step], "averaged": manifest.meta["averaged"]})


def parameters_prefix(manifest: Manifest) -> str:
    """Where the best parameters of a checkpoint stand in it: the average, if anything is averaged."""
    return "average.model." if manifest.meta["averaged"] else "state.model."


def _steps(directory: Directory) -> list[int]:
    steps = place_at(checkpoints_of(directory)).steps()
    if not steps:
        raise FileNotFoundError(f"{directory} has no complete checkpoint; give the run directory that `llama3 train` printed")
    return steps


def _verified(directory: Directory, step: int) -> tuple[Directory, Manifest]:
    steps = _steps(directory)
    if step not in steps:
        raise FileNotFoundError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    path = place_at(checkpoints_of(directory)).path(step)
    return path, verify(path)


def _new(directory: Directory, out: str | Path | None, name: str) -> Path:
    """`out`, or a directory of that name in `directory`. Raises: ValueError if it exists, or cannot be there."""
    out = Path(out).expanduser() if out else directory / "exports" / name
    if is_url(out):
        raise ValueError(f"nothing is written to {out}; name a directory here with --out")
    if out.exists():
        raise ValueError(f"{out} exists already; remove it, or name another with --out")
    return out


def _write(out: Path, directory: Directory, manifest: Manifest, weights: dict[str, np.ndarray], made_from: dict) -> Path:
    """A directory with one checkpoint of parameters alone and the tokenizer; there when it is whole."""
    from llama3_jax.checkpoint.store import CheckpointStore

    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    store = CheckpointStore(partial / CHECKPOINTS)
    run = directory if is_url(directory) else directory.resolve()
    meta = {**manifest.meta, "averaged": 0, "made_from": {"run": str(run), **made_from}}
    store.save(manifest.step, {"state": {"model": weights}}, meta)
    store.close()
    (partial / TOKENIZER).write_bytes((directory / TOKENIZER).read_bytes())
    os.replace(partial, out)
    return out

"""`llama3 checkpoint`: what the checkpoints of a run are, and whether each is as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.checkpoint.manifest import DELETING, PARTIAL, DamagedCheckpoint, Manifest, read_manifest, verify
from llama3_jax.commands.run_directory import CHECKPOINTS

MIB = 2**20


@dataclass(frozen=True)
class Entry:
    step: int
    path: Path
    manifest: Manifest | None
    problem: str
    """Why it cannot be loaded; empty for a sound one."""


def entries(directory: str | Path, *, hashes: bool) -> list[Entry]:
    """The complete checkpoints of a run directory, oldest first.

    Args: hashes: whether every file is read and compared, or the manifests alone.
    Raises: FileNotFoundError if there are none.
    """
    found = []
    for path in sorted(_checkpoints(directory).iterdir()):
        if path.is_dir() and path.name.isdigit():
            try:
                found.append(Entry(int(path.name), path, (verify if hashes else read_manifest)(path), ""))
            except (ValueError, FileNotFoundError) as problem:
                if path.exists():  # else the run has just deleted it
                    kind = "DAMAGED" if isinstance(problem, DamagedCheckpoint) else "NOT READABLE"
                    found.append(Entry(int(path.name), path, None, f"{kind}: {problem}"))
    if not found:
        raise FileNotFoundError(f"{directory} has no complete checkpoint")
    return found


def listing(directory: str | Path) -> Iterator[str]:
    """The lines of `llama3 checkpoint ls`: of each its step, place in the run, size and config; what is half written too."""
    found = entries(directory, hashes=False)
    yield f"{'step':>10}{'tokens':>18}{'size':>14}{'averaged':>10}  {'config':14}phase/stage"
    for each in found:
        if each.manifest is None:
            yield f"{each.step:>10,}  {each.problem}"
            continue
        meta, size = each.manifest.meta, sum(size for size, _ in each.manifest.files.values())
        cursor, phases = meta["cursor"], meta["run"]["phases"]
        yield (
            f"{each.step:>10,}{cursor['tokens']:>18,}{size / MIB:>10,.1f} MiB{meta['averaged']:>10}  "
            f"{config_hash(each.manifest):14}{phases[cursor['phase']]['name']}/{cursor['stage']}"
        )
    for path in sorted(_checkpoints(directory).iterdir()):
        if path.suffix in (PARTIAL, DELETING):
            yield f"{path.name}: {'being written' if path.suffix == PARTIAL else 'being deleted'}, or left by a killed process"


def verdicts(directory: str | Path) -> tuple[list[str], bool]:
    """The lines of `llama3 checkpoint verify`, and whether every file of every checkpoint is as it was written."""
    found = entries(directory, hashes=True)
    lines = [
        f"step {each.step:,}: {each.problem}"
        if each.manifest is None
        else f"step {each.step:,}: sound, {len(each.manifest.files)} files and {len(each.manifest.arrays)} arrays"
        for each in found
    ]
    return lines, not any(each.problem for each in found)


def config_hash(manifest: Manifest) -> str:
    """Twelve characters that are the same for checkpoints of the same run file."""
    return hashlib.sha256(json.dumps(manifest.meta["run"], sort_keys=True).encode()).hexdigest()[:12]


def _checkpoints(directory: str | Path) -> Path:
    inside = Path(directory).expanduser() / CHECKPOINTS
    if not inside.is_dir():
        raise FileNotFoundError(f"{directory} is no run directory: it has no {CHECKPOINTS}/; give what `llama3 train` made")
    return inside

"""The directory of a run: whose it is, and that only one process at a time works in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from llama3_jax.checkpoint.manifest import Directory, read_manifest
from llama3_jax.checkpoint.place import place_at
from llama3_jax.checkpoint.settings import Saving
from llama3_jax.commands.run import TrainRun, changes
from llama3_jax.config.errors import ConfigError
from llama3_jax.config.load import Loaded, load
from llama3_jax.config.tree import to_mapping
from llama3_jax.tokenizer.object_store import is_url, located

CONFIG = "config.yaml"
TOKENIZER = "tokenizer.model"
RUN_DATA = "data.json"
"""Of a curation run: the `data` of a training run on its shards."""
FULL = (errno.ENOSPC, errno.EDQUOT)
OURS = {CONFIG, f"{CONFIG}.partial", "lock", "log.txt", "data", TOKENIZER}
"""All that a run which stopped before it began may have left."""
CHECKPOINTS = "checkpoints"
BEGUN = ("data/corpus.json", "metrics.jsonl", CHECKPOINTS)
"""A directory with any of these holds work of its config; one with none stopped before it began, and is taken over."""


@contextmanager
def claim(directory: Path, run: Loaded[TrainRun]) -> Iterator[None]:
    """Makes `directory` this run's, or finds that it is, and keeps other processes out meanwhile.

    Raises: ValueError if it belongs to a run of another config (with the differences), was made by a version whose
    config this one cannot read, holds other files, or is in use.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; choose another name=... or --runs directory")
    _require_ours(directory, run)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ValueError(f"no run directory can be made at {directory} ({error.strerror}); choose another --runs") from error
    with (directory / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another process is working in {directory}; wait for it, stop it, or choose another name=...; processes of "
                "one job are told so: --coordinator"
            ) from None
        partial = directory / f"{CONFIG}.partial"
        partial.write_text(run.render(), encoding="utf-8")
        os.replace(partial, directory / CONFIG)
        yield


def checkpoints_of(directory: str | os.PathLike) -> Directory:
    """Where the checkpoints of a run directory lie: as its config says, or `checkpoints/` in it. A directory or URL that has
    checkpoints in it, and is no run's, is that place itself."""
    place = located(directory)
    if is_url(place):
        return place
    if (place / CONFIG).is_file():
        return located(_saving(place / CONFIG).get("directory") or place / CHECKPOINTS)
    return place if place_at(place).steps() else place / CHECKPOINTS


def _saving(config: Path) -> dict:
    """Its section `checkpoint`; empty in a file that is no config."""
    try:
        return dict(yaml.safe_load(config.read_text(encoding="utf-8"))["checkpoint"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}


def saved_so_far(directory: Path) -> str:
    """What a run that was stopped can go on from; may be asked by a thread that answers a signal, so it never fails."""
    place = checkpoints_of(directory)
    try:
        steps = place_at(place).steps()
    except OSError as error:
        return f"what is saved lies at {place}, which does not answer ({error}); run the same command again to continue"
    where = f"saved up to step {steps[-1]}" if steps else "nothing is trained yet"
    return f"{where}; run the same command again to continue"


@contextmanager
def full_disk_named(directory: Path) -> Iterator[None]:
    """Turns "no space left on device" into an OSError that says where, how much is free and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = directory if directory.is_dir() else directory.parent
        raise OSError(
            f"the disk of {directory} is full ({shutil.disk_usage(place).free:,} bytes free): make room and run the same "
            "command again; complete checkpoints are untouched"
        ) from error


def _begun(directory: Path) -> list[dict]:
    """The stages that the newest readable checkpoint is of."""
    place = place_at(checkpoints_of(directory))
    for step in reversed(place.steps()):
        with contextlib.suppress(ValueError):
            return read_manifest(place.path(step)).meta.get("cursor", {}).get("begun", [])
    return []


def _require_ours(directory: Path, run: Loaded[TrainRun]) -> None:
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    begun = any((directory / name).exists() for name in BEGUN)
    if found <= OURS and not begun and not (directory / CONFIG).exists():
        return
    if CONFIG not in found or (not begun and not found <= OURS):
        raise ValueError(
            f"{directory} has files ({', '.join(sorted(found)[:5])}) and is not a run directory; choose another name=... or "
            "--runs directory"
        )
    remedy = "choose another name=..., or delete that directory to start over"
    try:
        before = load(TrainRun, directory / CONFIG).value
    except ConfigError as error:
        raise ValueError(f"{directory / CONFIG} is not a config of this version of llama3_jax: {error}; {remedy}") from None
    changed = changes(to_mapping(before), to_mapping(run.value), _begun(directory))
    if changed and begun:
        raise ValueError("\n  ".join([f"{directory} belongs to a run of another config; {remedy}. It differs in", *changed]))
    _require_moved(directory, before.checkpoint, run.value.checkpoint)


def _require_moved(directory: Path, before: Saving, now: Saving) -> None:
    """Raises: ValueError if checkpoints are to lie in another place that does not have them: the run would begin anew."""
    old, new = (place_at(saving.directory or directory / CHECKPOINTS) for saving in (before, now))
    if old.directory != new.directory and (saved := max(old.steps(), default=0)) > max(new.steps(), default=0):
        raise ValueError(
            f"{directory} is saved up to step {saved} in {old.directory}, which {new.directory} is not; copy the checkpoints "
            f"there and run the same command again, or leave checkpoint.directory={before.directory or 'null'}"
        )

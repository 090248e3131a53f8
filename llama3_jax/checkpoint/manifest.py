"""The manifest of a checkpoint: what it holds and the hash of every file. Without a valid one nothing is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
NAME = "manifest.json"
ARRAYS = "arrays"
"""Where Orbax writes, inside a checkpoint."""
PARTIAL, DELETING = ".partial", ".deleting"
"""What the name of a directory ends in while it is being written or removed, or where a killed process left it."""


class DamagedCheckpoint(ValueError):
    """A checkpoint that must not be loaded; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    format_version: int
    step: int
    arrays: dict[str, list]
    """name -> [dtype, shape]"""
    meta: dict[str, Any]
    """What the owner of the checkpoint wants back: cursor, model config, tokenizer fingerprint ..."""
    files: dict[str, list]
    """path inside the checkpoint -> [bytes, sha256]"""

    def write(self, directory: Path) -> None:
        """Writes it into `directory` with a hash of itself, on disk when this returns."""
        fields = dataclasses.asdict(self)
        with (directory / NAME).open("w") as out:
            json.dump(fields | {"sha256": hash_of_fields(fields)}, out, indent=1)
            out.flush()
            os.fsync(out.fileno())


def remove_empty_directories(directory: Path) -> None:
    """Of those that a writer left, so that one which is there later is known as a stranger."""
    for path in sorted(directory.rglob("*"), reverse=True):  # what is inside comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def hash_files(directory: Path) -> dict[str, list]:
    """[bytes, sha256] of every file below `directory` but the manifest."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / NAME)
    return {str(path.relative_to(directory)): [path.stat().st_size, _sha256(path)] for path in paths}


def read_manifest(directory: Path) -> Manifest:
    """Raises: DamagedCheckpoint if there is none or it is not one; ValueError for another format version.

    The hash of itself is part of the manifest in every version, so that damage is not taken for another version.
    """
    try:
        fields = json.loads((directory / NAME).read_text())
        version = fields["format_version"]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{directory} has no {NAME}: it is not a finished llama3_jax checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{directory / NAME} cannot be read ({error})") from error
    if fields.pop("sha256", None) != hash_of_fields(fields):
        raise DamagedCheckpoint(f"{directory / NAME} was changed after it was written (sha256 differs)")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{directory} has checkpoint format {version}, this version of llama3_jax reads {FORMAT_VERSION}; "
            f"install the version that wrote it, or start a new run"
        )
    if directory.name.isdigit() and int(directory.name) != fields["step"]:
        raise DamagedCheckpoint(
            f"{directory} holds the checkpoint of step {fields['step']}: directories were renamed or exchanged"
        )
    return Manifest(**fields)


def inspect(directory: Path) -> Manifest:
    """The manifest, after every file was found with its size and no other file is there; their contents are not read.

    Raises: DamagedCheckpoint naming the first wrong file; ValueError for a newer format version.
    """
    manifest = read_manifest(directory)
    try:
        found = dict(_contents(directory))
    except OSError as error:
        raise DamagedCheckpoint(f"{error.filename or directory} cannot be read ({error.strerror})") from error
    for name, (size, _) in manifest.files.items():
        if found.get(name) is None:
            raise DamagedCheckpoint(f"{directory / name} {'is no file' if name in found else 'is missing'}")
        if found[name] != size:
            raise DamagedCheckpoint(f"{directory / name} has {found[name]} bytes, the manifest says {size}")
    for name in sorted(found.keys() - manifest.files.keys() - {NAME}):
        if not Path(name).name.startswith("."):  # a file system's own
            raise DamagedCheckpoint(f"{directory / name} does not belong there")
    return manifest


def verify(directory: Path) -> Manifest:
    """The manifest, after every file was found as it was written and no other file is there.

    Raises: as `inspect`.
    """
    manifest = inspect(directory)
    for name, (_, digest) in manifest.files.items():
        path = directory / name
        try:
            same = _sha256(path) == digest
        except OSError as error:
            raise DamagedCheckpoint(f"{path} cannot be read ({error.strerror})") from error
        if not same:
            raise DamagedCheckpoint(f"{path} was changed after it was written (sha256 differs)")
    return manifest


def _contents(directory: Path) -> Iterator[tuple[str, int | None]]:
    """Bytes of every file below `directory` by its path in it; None for a directory with nothing in it, a link to nowhere
    and the like."""
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_file():
            yield name, path.stat().st_size
        elif path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield name, None


def hash_of_fields(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

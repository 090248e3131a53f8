"""The manifest of a checkpoint: what it holds and the hash of every file. Without a valid one nothing is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from llama3_jax.checkpoint.folder import PARTIAL
from llama3_jax.tokenizer.object_store import is_url, put, sizes_below, store_errors

FORMAT_VERSION = 1
NAME = "manifest.json"
ARRAYS = "arrays"
"""Where Orbax writes, inside a checkpoint."""
HASHING_THREADS = 8
"""Files that are read at a time: a disk or an object store answers several, and a core hashes while others wait."""

Directory = Path | epath.Path
"""Of a checkpoint, here or on an object store."""


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

    def write(self, directory: Directory) -> None:
        """Writes it into `directory` with a hash of itself, stored for good when this returns."""
        fields = dataclasses.asdict(self)
        text = json.dumps(fields | {"sha256": hash_of_fields(fields)}, indent=1)
        if is_url(directory):
            put(directory / NAME, text.encode())
        else:
            with (directory / NAME).open("w") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())


def hash_files(directory: Directory) -> dict[str, list]:
    """[bytes, sha256] of every file below `directory` but the manifest."""
    sizes = {name: size for name, size in sorted(_contents(directory)) if name not in (NAME, PARTIAL) and size is not None}
    return {name: [sizes[name], digest] for name, digest in _hashed(directory, sizes)}


def read_manifest(directory: Directory) -> Manifest:
    """Raises: DamagedCheckpoint if there is none or it is not one; ValueError for another format version.

    The hash of itself is part of the manifest in every version, so that damage is not taken for another version.
    """
    try:
        with store_errors(directory):
            fields = json.loads((directory / NAME).read_bytes())
        version = fields["format_version"]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{directory} has no {NAME}: it is not a finished llama3_jax checkpoint") from None
    except OSError as error:
        raise _unreadable(directory / NAME, error) from error
    except (ValueError, KeyError, TypeError) as error:
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


def inspect(directory: Directory) -> Manifest:
    """The manifest, after every file was found with its size and no other file is there; their contents are not read.

    Raises: DamagedCheckpoint naming the first wrong file; ValueError for a newer format version.
    """
    manifest = read_manifest(directory)
    try:
        found = dict(_contents(directory))
    except OSError as error:
        raise _unreadable(error.filename or directory, error) from error
    for name, (size, _) in manifest.files.items():
        if found.get(name) is None:
            raise DamagedCheckpoint(f"{directory / name} {'is no file' if name in found else 'is missing'}")
        if found[name] != size:
            raise DamagedCheckpoint(f"{directory / name} has {found[name]} bytes, the manifest says {size}")
    for name in sorted(found.keys() - manifest.files.keys() - {NAME}):
        if not Path(name).name.startswith("."):  # a file system's own
            raise DamagedCheckpoint(f"{directory / name} does not belong there")
    return manifest


def verify(directory: Directory) -> Manifest:
    """The manifest, after every file was found as it was written and no other file is there.

    Raises: as `inspect`.
    """
    manifest = inspect(directory)
    for name, digest in _hashed(directory, manifest.files):
        if digest != manifest.files[name][1]:
            raise DamagedCheckpoint(f"{directory / name} was changed after it was written (sha256 differs)")
    return manifest


def _contents(directory: Directory) -> Iterator[tuple[str, int | None]]:
    """Bytes of every file below `directory` by its path in it; None for a directory with nothing in it, a link to nowhere
    and the like."""
    if is_url(directory):
        yield from sizes_below(directory).items()
        return
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_file():
            yield name, path.stat().st_size
        elif path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield name, None


def _hashed(directory: Directory, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The sha256 of each of these files, in their order; several are read at a time."""
    threads = ThreadPoolExecutor(HASHING_THREADS)
    try:
        yield from zip(names, threads.map(lambda name: _sha256(directory / name), names), strict=True)
    finally:
        threads.shutdown(cancel_futures=True)


def _unreadable(path: Directory | str, error: OSError) -> Exception:
    """A file of a disk that cannot be read is damaged; one that a store does not send may be whole, and is not judged."""
    if is_url(path):
        return OSError(error.errno, f"{path} cannot be read: {error.strerror or error}; run the same command again")
    return DamagedCheckpoint(f"{path} cannot be read ({error.strerror})")


def hash_of_fields(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _sha256(path: Directory) -> str:
    try:
        with store_errors(path), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error

"""Files of an object store, fetched whole to a local disk on first use.

The ArrayRecord of the wheel opens gs:// itself (s3:// not), with a request for each document. A file is fetched whole instead:
its checksum needs every byte of it anyway, and from a local disk a document takes microseconds.

    <digest>.arrayrecord, <digest>.npy     named by what they hold, so that runs and processes of a machine share them
    <digest>.arrayrecord.partial           one on its way; of a process that was killed, the next one begins it anew
    locks/00 ... ff                        held while a file is fetched: one process fetches, the others wait
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etils import epath

from llama3_jax.tokenizer.object_store import store_errors
from llama3_jax.tokenizer.open_readers import OPEN_READERS

DIRECTORY = "LLAMA3_SHARD_CACHE"
"""Environment variable: where fetched files lie (default: llama3_jax/shards in the user's cache directory)."""
MAX_BYTES = "LLAMA3_SHARD_CACHE_BYTES"
"""Environment variable: bytes they may take together; those that were opened longest ago give way."""
DEFAULT_MAX_BYTES = 2**36

_BLOCK_BYTES = 2**23


class ShardCache:
    """Local copies of remote files, each compared with its digest once a process. Safe among threads and processes."""

    def __init__(self, directory: str | Path, *, max_bytes: int, report: Callable[[str], None]):
        self._directory = Path(directory)
        self._max_bytes = max_bytes
        self._report = report
        self._verified: set[str] = set()
        self._gave_way: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def of_this_machine(cls, report: Callable[[str], None]) -> ShardCache:
        """Where the environment says. Raises: ValueError for a size that is no number."""
        given = os.environ.get(MAX_BYTES, DEFAULT_MAX_BYTES)
        try:
            max_bytes = int(given)
        except ValueError:
            raise ValueError(f"{MAX_BYTES}={given} is not a number of bytes; {DEFAULT_MAX_BYTES} is the default") from None
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        directory = os.environ.get(DIRECTORY) or Path(user).expanduser() / "llama3_jax/shards"
        return cls(directory, max_bytes=max_bytes, report=report)

    def fetch(self, url: epath.Path, *, sha256: str, num_bytes: int) -> Path:
        """The local copy of a file of this digest and size.

        Raises: OSError if it cannot be fetched; ValueError if it is not what the digest says, or is larger than the cache.
        """
        path = self._directory / f"{sha256}{url.suffix}"
        if sha256 not in self._verified or not path.exists():
            (self._directory / "locks").mkdir(parents=True, exist_ok=True)
            with _held(self._directory / "locks" / sha256[:2]):
                if not path.exists():
                    self._download(url, path, sha256, num_bytes)
                elif sha256 not in self._verified and digest_of(path) != sha256:
                    self._report(f"the local copy {path} of {url} is damaged; fetching it again")
                    self._download(url, path, sha256, num_bytes)
                self._verified.add(sha256)
        os.utime(path)  # when it was opened last
        return path

    def _download(self, url: epath.Path, path: Path, sha256: str, num_bytes: int) -> None:
        self._make_room(url, num_bytes)
        if sha256 in self._gave_way:
            self._gave_way.clear()
            self._report(
                f"fetching {url} again: {self._directory} may hold {self._max_bytes / 1e9:.1f} GB, less than the shards in use; "
                f"set {MAX_BYTES} to more"
            )
        partial = path.with_name(path.name + ".partial")
        digest, copied = hashlib.sha256(), 0
        with store_errors(url), url.open("rb") as source, open(partial, "wb") as copy:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                copied += copy.write(block)
        if copied < num_bytes:
            raise OSError(errno.EIO, f"only {copied} of its {num_bytes} bytes came")
        if digest.hexdigest() != sha256:
            partial.unlink()
            raise ValueError(changed(url))
        os.replace(partial, path)

    def _make_room(self, url: epath.Path, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ValueError(
                f"{url} has {num_bytes} bytes, {self._directory} may hold {self._max_bytes}; set {MAX_BYTES} to more"
            )
        with self._lock:
            files = []
            for entry in os.scandir(self._directory):
                with suppress(FileNotFoundError):  # another process makes room as well
                    if entry.is_file():
                        files.append((entry.stat(), Path(entry)))
            total = sum(stat.st_size for stat, _ in files)
            for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
                if total + num_bytes <= self._max_bytes:
                    break
                path.unlink(missing_ok=True)  # whoever has it open reads on
                sha256 = path.name.partition(".")[0]
                OPEN_READERS.discard(sha256)
                self._gave_way.add(sha256)
                total -= stat.st_size


def digest_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(path: Path | epath.Path) -> str:
    """What to say of a file whose digest is another."""
    return f"{path} was changed or damaged after it was written; delete the shard and prepare it again"


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by a process that is killed
        yield

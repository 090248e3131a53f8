"""A token shard: encoded documents in one ArrayRecord file, their lengths, and a header that says whose ids
they are.

    web-train-00000.arrayrecord   one record a document: its ids, little-endian uint32, BOS first and EOS last
    web-train-00000.lengths.npy   int64 [num_documents], tokens of each document
    web-train-00000.json          the header, written last: a shard without one is not finished

The header holds the digests of the other two. Opening a shard reads the header only, the other files are read when they are
asked for, from here or from an object store, and each is compared with its digest before anything of it is used.

EOS belongs to the document it ends. That BOS comes first is our choice; the paper does not print its layout.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from llama3_jax.tokenizer.object_store import is_url, located, store_errors
from llama3_jax.tokenizer.open_readers import OPEN_READERS
from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.shard_cache import ShardCache, changed, digest_of

FORMAT_VERSION = 2

_ID = np.dtype("<u4")
_LENGTH = np.dtype("<i8")
_DAMAGE = re.compile("Corrupted|Invalid|Truncated")
"""How the messages of ArrayRecord begin that are of what a file holds, not of the reading of it."""


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What a shard says of itself."""

    format_version: int
    source: str
    tokenizer_fingerprint: str
    """`Tokenizer.fingerprint` of the vocabulary that its ids belong to."""
    vocab_size: int
    num_documents: int
    num_tokens: int
    bytes: int
    """Size of the ArrayRecord file."""
    sha256: str
    """Hex digest of the ArrayRecord file."""
    lengths_bytes: int
    """Size of the lengths file."""
    lengths_sha256: str
    """Hex digest of the lengths file."""


class TokenShardWriter:
    """Writes one shard, as a context manager; nothing appears under the final names unless the block
    succeeds.

    Attributes:
        num_tokens: written so far.
    Raises: ValueError for a path that does not end in `.arrayrecord` and, on leaving, for a shard without
        documents.
    """

    def __init__(self, path: str | Path, *, source: str, tokenizer_fingerprint: str, vocab_size: int):
        self.path = _shard_path(path)
        self.num_tokens = 0
        self._source = source
        self._fingerprint = tokenizer_fingerprint
        self._vocab_size = vocab_size
        self._lengths: list[int] = []
        self._partial = _partial(self.path)

    def __enter__(self) -> Self:
        self._records = ArrayRecordWriter(str(self._partial), "group_size:1,zstd:1")
        return self

    def write(self, ids: np.ndarray) -> None:
        """Appends one document: integer ids [length], BOS and EOS included.

        Raises: ValueError if it is empty or not a vector of ids below vocab_size.
        """
        ids = np.asarray(ids)
        where = f"document {len(self._lengths)} of {self.path}"
        if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "ui":
            raise ValueError(f"{where} is {ids.dtype} {ids.shape}; write a non-empty vector of integer ids")
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise ValueError(
                f"{where} holds ids {ids.min()}..{ids.max()}, the vocabulary has 0..{self._vocab_size - 1}; "
                "encode it with the tokenizer this shard was opened for"
            )
        with _as_os_error(self.path):
            self._records.write(ids.astype(_ID, copy=False).tobytes())
        self._lengths.append(ids.size)
        self.num_tokens += ids.size

    def __exit__(self, error_type, error, traceback) -> None:
        with _as_os_error(self.path):
            self._records.close()
        if error_type is not None or not self._lengths:
            self._partial.unlink()
            if error_type is None:
                raise ValueError(f"no document was written to {self.path}; leave out a shard that has none")
            return
        lengths = io.BytesIO()
        np.save(lengths, np.array(self._lengths, np.int64))
        header = ShardHeader(
            format_version=FORMAT_VERSION,
            source=self._source,
            tokenizer_fingerprint=self._fingerprint,
            vocab_size=self._vocab_size,
            num_documents=len(self._lengths),
            num_tokens=self.num_tokens,
            bytes=self._partial.stat().st_size,
            sha256=digest_of(self._partial),
            lengths_bytes=lengths.getbuffer().nbytes,
            lengths_sha256=hashlib.sha256(lengths.getbuffer()).hexdigest(),
        )
        _header_path(self.path).unlink(missing_ok=True)  # an older shard's header never describes our records
        os.replace(self._partial, self.path)
        _replace(_lengths_path(self.path), lengths.getvalue())
        fields = dataclasses.asdict(header)
        _replace(_header_path(self.path), json.dumps(fields | {"checksum": checksum_of(fields)}, indent=1).encode())


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """ArrayRecord reports a failed write as a RuntimeError; callers know what an OSError with an errno means."""
    try:
        yield
    except RuntimeError as error:
        code = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(code, str(error), str(path)) from error


class TokenShard:
    """A finished shard: `len(shard)` documents, `shard[i]` the uint32 ids of one (read-only).

    May be read from many threads, and copied to other processes (pickle). Reads are tried again where the cause may pass,
    see `Patience`.

    Args:
        path: of the ArrayRecord file, here or on an object store (s3://, gs://).
        patience: with what reads are tried again, and who is told; by default the log of this module.
        cache: where files of an object store are fetched to; by default this machine's.
    Attributes:
        header: `ShardHeader`.
        lengths: `ShardLengths`, the tokens of each document.
    Raises: ValueError, with the remedy, for a shard that is unfinished, cut short, of another format, or (where
        `tokenizer_fingerprint` is given) of another vocabulary; when it is read, also for one that was changed or damaged.
        OSError, naming the shard, for a file that cannot be read.
    """

    def __init__(
        self,
        path: str | Path | epath.Path,
        *,
        tokenizer_fingerprint: str | None = None,
        patience: Patience | None = None,
        cache: ShardCache | None = None,
    ):
        self.path = _shard_path(path)
        self._begin(patience or Patience(), cache)
        self.header = self._patience.read(str(self.path), lambda: _read_header(self.path))
        if not is_url(self.path):
            self._check_sizes()
        if tokenizer_fingerprint not in (None, self.header.tokenizer_fingerprint):
            raise ValueError(
                f"{self.path} was encoded with tokenizer {self.header.tokenizer_fingerprint[:12]} "
                f"({self.header.vocab_size} ids), this run uses {tokenizer_fingerprint[:12]}; "
                "use the tokenizer the shard was made with, or encode the documents again"
            )

    def __len__(self) -> int:
        return self.header.num_documents

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The documents of these numbers, in their order: a third cheaper at once than one by one."""
        documents = range(len(self))
        wanted = [documents[index] for index in indices]
        return [np.frombuffer(record, _ID) for record in self._patience.read(str(self.path), lambda: self._records(wanted))]

    @property
    def lengths(self) -> "ShardLengths":
        return ShardLengths(self)

    def verify(self) -> None:
        """Compares both files with their digests now, if it was not done yet. Raises: as reading does."""
        self._patience.read(str(self.path), self._records_file)
        self._patience.read(str(self.path), self._lengths_file)

    def __getstate__(self) -> dict:
        return {"path": self.path, "header": self.header}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._begin(Patience(), None)  # a report or a cache of another process means nothing here

    def _begin(self, patience: Patience, cache: ShardCache | None) -> None:
        self._patience = patience
        if cache is None and is_url(self.path):
            cache = ShardCache.of_this_machine(patience.report)
        self._cache = cache
        self._verified: set[Path] = set()
        self._compared = False
        self._lock = threading.Lock()

    def _check_sizes(self) -> None:
        for path, right in ((self.path, self.header.bytes), (_lengths_path(self.path), self.header.lengths_bytes)):
            size = path.stat().st_size if path.is_file() else 0
            if size != right:
                raise ValueError(
                    f"{path} has {size} bytes, its header says {right} (cut short?); delete the shard and prepare it again"
                )

    def _records(self, wanted: list[int]) -> list[bytes]:
        # of an object store all paths to the same content share one local copy
        key = self.header.sha256 if is_url(self.path) else f"{self.header.sha256} {self.path}"
        if not self._compared:
            self._records_file()  # also where an earlier shard of this process has left it open
            self._compared = True
        try:
            return OPEN_READERS.get(key, self._records_file).read(wanted)
        except RuntimeError as error:
            OPEN_READERS.discard(key)
            if _DAMAGE.match(str(error)):
                raise ValueError(f"{changed(self.path)} ({error})") from error
            raise OSError(errno.EIO, str(error)) from error

    def _records_file(self) -> Path:
        return self._verified_file(self.path, self.header.sha256, self.header.bytes)

    def _lengths_file(self) -> Path:
        return self._verified_file(_lengths_path(self.path), self.header.lengths_sha256, self.header.lengths_bytes)

    def _verified_file(self, path: Path | epath.Path, sha256: str, num_bytes: int) -> Path:
        """Where a file of this shard lies on this machine, once it is known to be what was written."""
        if self._cache is not None and is_url(path):
            return self._cache.fetch(path, sha256=sha256, num_bytes=num_bytes)
        if path not in self._verified:
            with self._lock:  # the threads that want it too wait for the first
                if path not in self._verified:
                    if digest_of(path) != sha256:
                        raise ValueError(changed(path))
                    self._verified.add(path)
        return path


class ShardLengths(Sequence[int]):
    """Tokens of each document of a shard: int64 [num_documents], held in its file.

    `lengths[a:b]` reads so many, `np.asarray(lengths)` all; both give arrays that are the caller's to keep.
    """

    def __init__(self, shard: TokenShard):
        self._shard = shard

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, index: int | slice) -> np.ndarray | np.int64:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self[place : place + 1][0]
        first, last, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"lengths are read as a stretch, not with step {step}; slice np.asarray(lengths)")
        return self._shard._patience.read(str(_lengths_path(self._shard.path)), lambda: self._read(first, max(0, last - first)))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)

    def _read(self, first: int, count: int) -> np.ndarray:
        # read and not mapped: a mapping holds a file handle, and where its disk fails the process is killed
        path = self._shard._lengths_file()
        lengths = np.fromfile(
            path, _LENGTH, count, offset=self._shard.header.lengths_bytes - _LENGTH.itemsize * (len(self) - first)
        )
        if lengths.size != count:
            raise OSError(errno.EIO, f"{path} ends after {lengths.size} of the {count} lengths from {first} on")
        return lengths


def _read_header(path: Path | epath.Path) -> ShardHeader:
    header_path = _header_path(path)
    try:
        with store_errors(header_path):
            text = header_path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{path} has no header {header_path.name}: it is missing or was never finished; prepare it again"
        ) from None
    try:
        fields = json.loads(text)
        version = fields["format_version"]
        checksum = fields.pop("checksum", None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{header_path} is no shard header ({error}); prepare the shard again") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{header_path} has format_version {version}, this library reads {FORMAT_VERSION}; "
            "update llama3_jax, or prepare the shard again"
        )
    if checksum != checksum_of(fields):
        raise ValueError(changed(header_path))
    try:
        return ShardHeader(**fields)
    except TypeError as error:
        raise ValueError(f"{header_path} is no shard header ({error}); prepare the shard again") from error


def checksum_of(fields: dict) -> str:
    """Of a header's other fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _shard_path(path: str | Path | epath.Path) -> Path | epath.Path:
    path = located(path)
    if path.suffix != ".arrayrecord":
        raise ValueError(f"a token shard is named *.arrayrecord, not {path.name}")
    return path


def _header_path(path: Path | epath.Path) -> Path | epath.Path:
    return path.with_suffix(".json")


def _lengths_path(path: Path | epath.Path) -> Path | epath.Path:
    return path.with_suffix(".lengths.npy")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _replace(path: Path, data: bytes) -> None:
    _partial(path).write_bytes(data)
    os.replace(_partial(path), path)

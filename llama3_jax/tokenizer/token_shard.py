"""A token shard: encoded documents in one ArrayRecord file, their lengths, and a header that says whose ids
they are.

    web-train-00000.arrayrecord   one record a document: its ids, little-endian uint32, BOS first and EOS last
    web-train-00000.lengths.npy   int64 [num_documents], tokens of each document
    web-train-00000.json          the header, written last: a shard without one is not finished

EOS belongs to the document it ends. That BOS comes first is our choice; the paper does not print its layout.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

FORMAT_VERSION = 1

_ID = np.dtype("<u4")


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
        self._records = ArrayRecordWriter(str(self._partial), "group_size:1")
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
        header = ShardHeader(
            format_version=FORMAT_VERSION,
            source=self._source,
            tokenizer_fingerprint=self._fingerprint,
            vocab_size=self._vocab_size,
            num_documents=len(self._lengths),
            num_tokens=self.num_tokens,
            bytes=self._partial.stat().st_size,
            sha256=_sha256(self._partial),
        )
        lengths = io.BytesIO()
        np.save(lengths, np.array(self._lengths, np.int64))
        _header_path(self.path).unlink(missing_ok=True)  # an older shard's header never describes our records
        os.replace(self._partial, self.path)
        _replace(_lengths_path(self.path), lengths.getvalue())
        _replace(_header_path(self.path), json.dumps(dataclasses.asdict(header), indent=1).encode())


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

    Checked against its header when opened. May be read from many threads, and copied to other processes
    (pickle), where the file is opened anew.

    Attributes:
        header: `ShardHeader`.
        lengths: int64 [num_documents], tokens of each document.
    Raises: ValueError, with the remedy, for a shard that is unfinished, cut short, of a newer format, or
        (where `tokenizer_fingerprint` is given) of another vocabulary.
    """

    def __init__(self, path: str | Path, *, tokenizer_fingerprint: str | None = None):
        self.path = _shard_path(path)
        self.header = _read_header(self.path)
        self.lengths = self._read_lengths()
        if tokenizer_fingerprint not in (None, self.header.tokenizer_fingerprint):
            raise ValueError(
                f"{self.path} was encoded with tokenizer {self.header.tokenizer_fingerprint[:12]} "
                f"({self.header.vocab_size} ids), this run uses {tokenizer_fingerprint[:12]}; "
                "use the tokenizer the shard was made with, or encode the documents again"
            )
        self._reader: ArrayRecordReader | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.header.num_documents

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]
        try:
            ids = np.frombuffer(self._open().read([index])[0], _ID)
        except RuntimeError as error:
            raise ValueError(
                f"document {index} of {self.path} cannot be read ({error}); the shard is damaged: delete and prepare it again"
            ) from error
        if ids.size != self.lengths[index]:
            raise ValueError(
                f"document {index} of {self.path} has {ids.size} tokens, its lengths file says "
                f"{self.lengths[index]}; delete the shard and prepare it again"
            )
        return ids

    def verify(self) -> None:
        """Reads the whole file once. Raises: ValueError if its sha256 is not the header's."""
        if _sha256(self.path) != self.header.sha256:
            raise ValueError(f"{self.path} was changed or damaged after it was written; delete and prepare it again")

    def __getstate__(self) -> dict:
        return {"path": self.path, "header": self.header, "lengths": self.lengths}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _reader=None, _lock=threading.Lock())

    def _open(self) -> ArrayRecordReader:
        with self._lock:
            if self._reader is None:
                self._reader = ArrayRecordReader(str(self.path), "readahead_buffer_size:0,max_parallelism:0")
            return self._reader

    def _read_lengths(self) -> np.ndarray:
        header, remedy = self.header, "delete the shard and prepare it again"
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size != header.bytes:
            raise ValueError(f"{self.path} has {size} bytes, its header says {header.bytes} (cut short?); {remedy}")
        try:
            lengths = np.load(_lengths_path(self.path), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{_lengths_path(self.path)} is missing or damaged ({error}); {remedy}") from error
        if lengths.shape != (header.num_documents,) or lengths.sum() != header.num_tokens:
            raise ValueError(
                f"{_lengths_path(self.path)} has {lengths.size} documents of {lengths.sum()} tokens, "
                f"the header says {header.num_documents} of {header.num_tokens}; {remedy}"
            )
        return lengths


def _read_header(path: Path) -> ShardHeader:
    header_path = _header_path(path)
    try:
        fields = json.loads(header_path.read_text())
        version = fields["format_version"]
    except FileNotFoundError:
        raise ValueError(
            f"{path} has no header {header_path.name}: it is missing or was never finished; prepare it again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{header_path} is no shard header ({error}); prepare the shard again") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{header_path} has format_version {version}, this library reads {FORMAT_VERSION}; "
            "update llama3_jax, or prepare the shard again"
        )
    try:
        return ShardHeader(**fields)
    except TypeError as error:
        raise ValueError(f"{header_path} is no shard header ({error}); prepare the shard again") from error


def _shard_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".arrayrecord":
        raise ValueError(f"a token shard is named *.arrayrecord, not {path.name}")
    return path


def _header_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _lengths_path(path: Path) -> Path:
    return path.with_suffix(".lengths.npy")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _replace(path: Path, data: bytes) -> None:
    _partial(path).write_bytes(data)
    os.replace(_partial(path), path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

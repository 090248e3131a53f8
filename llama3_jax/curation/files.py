"""Documents from files: .txt, .md, .jsonl (plain, gzip, zstandard) and .parquet, one at a time."""

import collections
import difflib
import gzip
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3_jax.curation.document import Document

_log = logging.getLogger(__name__)

_READ_BYTES = 2**16
_PARQUET_ROWS = 256
_LANGUAGE = ("language", "lang")


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """The documents of `paths` in the order given; a directory is walked in sorted order over the known
    suffixes.

    A .txt or .md file is one document with its path as id. A line of .jsonl and a row of .parquet have `text`
    and may have `id` and `language` (or `lang`); without, the id is `PATH:LINE`. Documents of nothing but white
    space are left out and counted in the log. Memory holds one document (of .parquet, a batch of rows) at a time.

    Raises: FileNotFoundError, ValueError: as `find_files`, and where the file is read: text that is not
        UTF-8, a broken line, a document without text, a file cut short, no document at all.
    """
    return _documents(find_files(paths))


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `read_documents` reads.

    Raises: FileNotFoundError for a path that is not there; ValueError for an unknown suffix or a directory
        that holds nothing readable.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"paths is a list of files and directories; write [{str(paths)!r}]")
    if not paths:
        raise ValueError("paths is empty: name at least one file or directory")
    return [file for path in paths for file in _files_of(Path(path).expanduser())]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(_walk(path))
        files = [file for file in found if _suffix(file)]
        if not files:
            raise ValueError(f"{path} holds no readable file; these are read: {', '.join(_READERS)}")
        if others := collections.Counter(file.suffix or "no suffix" for file in found if not _suffix(file)):
            kinds = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
            _log.warning("%s: left out %d files of other kinds (%s)", path, len(found) - len(files), kinds)
        return files
    if not path.exists():
        raise FileNotFoundError(f"no file or directory {path}{_suggestion(path)}")
    if not _suffix(path):
        raise ValueError(f"{path}: unknown kind of file; these are read: {', '.join(_READERS)}")
    return [path]


def _walk(directory: Path) -> Iterator[Path]:
    """The files below a directory, without hidden directories and without the run directories of `llama3 train`."""
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        if set(names) >= {"config.yaml", "lock", "log.txt"}:
            directories.clear()
        else:
            yield from (Path(place, name) for name in names)


def _suggestion(path: Path) -> str:
    there = next(parent for parent in (*path.parents, Path()) if parent.is_dir())
    missing = path.relative_to(there).parts[0]
    near = difflib.get_close_matches(missing, [entry.name for entry in there.iterdir()], n=1)
    return f"; did you mean {there / near[0]}?" if near else f"; {there} exists, but has no {missing}"


def _documents(files: Iterable[Path]) -> Iterator[Document]:
    files = list(files)
    num_documents = 0
    for file in files:
        num_blank = 0
        for document in _READERS[_suffix(file)](file):
            if document.text.strip():
                num_documents += 1
                yield document
            else:
                num_blank += 1
        if num_blank:
            _log.warning("%s: left out %d blank documents", file, num_blank)
    if not num_documents:
        raise ValueError(f"no document with text in {', '.join(map(str, files[:3]))}{', ...' if files[3:] else ''}")


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)


def _read_text(path: Path) -> Iterator[Document]:
    yield Document(str(path), _utf8(path.read_bytes(), str(path)).removeprefix("\ufeff"))


def _jsonl_reader(open_lines: Callable[[Path], Iterable[bytes]]) -> Callable[[Path], Iterator[Document]]:
    def read(path: Path) -> Iterator[Document]:
        where, number = str(path), 0
        lines = iter(open_lines(path))
        while True:
            try:
                line = next(lines)
            except StopIteration:
                return
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(
                    f"{path} is cut short or damaged after line {number} ({error}); fetch or write it again"
                ) from error
            number += 1
            where = f"{path}:{number}"
            text = _utf8(line, where)
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not a line of JSON: {error}; write one object a line") from error
            yield _document(record, where)

    return read


def _plain_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _gzip_lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from file


def _zstd_lines(path: Path) -> Iterator[bytes]:
    """Frame by frame, because zstandard's own stream reader takes a file cut short for a finished one."""
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path} needs the `zstandard` package: pip install zstandard") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame, rest = None, b""
    with open(path, "rb") as file:
        while chunk := file.read(_READ_BYTES):
            while chunk:
                frame = frame or decompressor.decompressobj()
                try:
                    *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from error
                yield from lines
                chunk = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last zstandard frame has no end")
    if rest:
        yield rest


def _read_parquet(path: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path} needs the `pyarrow` package: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in ("id", "text", *_LANGUAGE) if name in file.schema_arrow.names]
            if "text" not in columns:
                raise ValueError(f"{path} has the columns {file.schema_arrow.names}; `text` must be one of them")
            row = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield _document(record, f"{path}:{row}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is cut short or no parquet file ({error}); fetch or write it again") from error


def _document(record: Any, where: str) -> Document:
    if not isinstance(record, Mapping) or "text" not in record:
        found = f"has the fields {list(record)}" if isinstance(record, Mapping) else f"is a {type(record).__name__}"
        raise ValueError(f"{where} {found}; write an object with a field `text`")
    text = "" if record["text"] is None else record["text"]
    if not isinstance(text, str):
        raise ValueError(f"{where}: `text` is a {type(text).__name__}, not a string")
    name = record.get("id")
    language = next((record[field] for field in _LANGUAGE if isinstance(record.get(field), str)), "")
    document = Document(where if name is None else str(name), text, language)
    for field, value in document._asdict().items():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: `{field}` has the lone surrogate {value[error.start]!r} at character "
                f"{error.start}, which is not Unicode text; replace it, by U+FFFD say"
            ) from error
    return document


def _utf8(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start} ({data[error.start]:#04x}) is not UTF-8; convert it, "
            "for example: iconv -f ISO-8859-1 -t UTF-8"
        ) from error


_READERS: Mapping[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _jsonl_reader(_plain_lines),
    ".jsonl.gz": _jsonl_reader(_gzip_lines),
    ".jsonl.zst": _jsonl_reader(_zstd_lines),
    ".parquet": _read_parquet,
}

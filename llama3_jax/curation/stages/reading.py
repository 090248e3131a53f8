"""Input files to partitions of documents: read and extracted in one pass, so that no HTML is ever stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from llama3_jax.curation.documents import REJECTED, SCHEMA, DocumentWriter
from llama3_jax.curation.extract.extract import extract
from llama3_jax.curation.extract.settings import Extraction
from llama3_jax.curation.partition import Context, Outcome, Partition
from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.read import InputFile, in_parts, read
from llama3_jax.curation.step import Facts, Task, digest
from llama3_jax.curation.tally import Tally, total

READ, EXTRACT = "read", "extract"
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How input files become documents."""

    limits: Limits = Limits()
    extraction: Extraction = Extraction()
    piece_bytes: int = 8 * 2**20
    """Small input files are read together up to so many, as they are stored, and larger WARC files in such parts; more for
    less files between the stages, fewer for more that work at a time."""
    partition_bytes: int = 8 * 2**20
    """A partition of text is closed at the first document's end at or after so many."""

    def __post_init__(self):
        for name in ("piece_bytes", "partition_bytes"):
            if getattr(self, name) < 2**10:
                raise ValueError(f"{name}={getattr(self, name)}; use 1024 or more, or every document is a file of its own")


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """The input files of a source, in the order of their names, and what is known of all of them."""

    name: str
    files: tuple[InputFile, ...]
    language: str
    license: str
    """Both where a record does not say."""


def read_sources(context: Context, sources: Sequence[SourceFiles], settings: Reading) -> tuple[Outcome, Outcome]:
    """Returns: the outcomes of reading and of extracting; the partitions of both are those of the text."""
    tasks = [task for source in sources for task in _tasks(source, settings.piece_bytes)]
    pieces = context.step("read/text", tasks, partial(_read, settings=settings), settings)
    partitions = tuple(
        Partition(piece.directory / chunk["name"], piece.outputs[chunk["name"]], piece.facts["source"], chunk["documents"],
                  chunk["bytes"])
        for piece in pieces
        for chunk in piece.facts["chunks"]
    )  # fmt: skip
    return tuple(Outcome(stage, partitions, total(piece.facts[stage] for piece in pieces)) for stage in (READ, EXTRACT))


def _tasks(source: SourceFiles, piece_bytes: int) -> Iterator[Task]:
    group: list[InputFile] = []
    for part in chain.from_iterable(in_parts(file, piece_bytes) for file in source.files):
        if group and sum(map(_size, group)) + _size(part) > piece_bytes:
            yield _task(source, group)
            group = []
        group.append(part)
    if group:
        yield _task(source, group)


def _size(file: InputFile) -> int:
    return file.size if file.part is None else file.part[1] - file.part[0]


def _task(source: SourceFiles, files: Sequence[InputFile]) -> Task:
    versions = [(file.name, file.size, file.version, file.part) for file in files]
    inputs = (source.name, source.language, source.license, tuple(files))
    return Task(
        inputs=inputs, digest=digest([versions, source.name, source.language, source.license]), size=sum(map(_size, files))
    )


def _read(inputs, directory: Path, *, settings: Reading) -> Facts:
    source, language, license, files = inputs
    read_tally, extract_tally = Tally(READ), Tally(EXTRACT)
    held = _Chunks(directory, settings.partition_bytes)
    with held as chunks, DocumentWriter(directory / "rejected.parquet", REJECTED) as rejects:
        for file in files:
            for found in read(file, settings.limits):
                if isinstance(found, Skipped):
                    lost = _empty(found.where, source)
                    read_tally.read(1, 0)
                    read_tally.reject(lost, 0, found.reason, *_value(found.value))
                    _write_rejected(rejects, lost, READ, found.reason, *_value(found.value))
                    continue
                document = {
                    "id": found.id, "url": found.url, "crawl_time": found.crawl_time, "source": source,
                    "language": found.language or language, "license": found.license or license, "text": "",
                }  # fmt: skip
                size = len(found.body) if isinstance(found.body, bytes) else len(found.body.encode())
                read_tally.read(1, size)
                read_tally.keep(document, size)
                extract_tally.read(1, size)
                document["text"] = _text(found, settings.extraction)
                length = len(document["text"].encode())
                if document["text"].strip():
                    extract_tally.keep(document, length)
                    chunks.write(document, length)
                else:
                    extract_tally.reject(document, length, "no_text", float(size), "")
                    _write_rejected(rejects, document, EXTRACT, "no_text", float(size), "")
    return {
        "source": source, "chunks": chunks.written, READ: read_tally.facts(), EXTRACT: extract_tally.facts(),
    }  # fmt: skip


def _text(found: Raw, settings: Extraction) -> str:
    text = found.body if isinstance(found.body, str) else extract(found.body, found.encoding, settings)
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text  # no lone surrogates in Parquet


def _empty(name: str, source: str) -> dict[str, str]:
    return {column: "" for column in SCHEMA.names} | {"id": name, "source": source}


def _value(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (float("nan"), str(value))


def _write_rejected(
    rejects: DocumentWriter, document: Mapping[str, str], stage: str, reason: str, value: float, detail: str
) -> None:
    row = {**document, "stage": stage, "reason": reason, "value": None if value != value else value, "detail": detail}
    rejects.write(pa.Table.from_pylist([row], schema=REJECTED))


class _Chunks:
    """kept-000.parquet and so on, each closed by its size."""

    def __init__(self, directory: Path, size: int):
        self._directory, self._size = directory, size
        self._writer, self._rows, self._documents, self._bytes = None, [], 0, 0
        self.written: list[dict[str, Any]] = []

    def write(self, document: Mapping[str, str], size: int) -> None:
        if self._writer is None:
            self._name = f"kept-{len(self.written):03d}.parquet"
            self._writer = DocumentWriter(self._directory / self._name)
        self._rows.append(document)
        self._documents += 1
        self._bytes += size
        if len(self._rows) == _ROWS or self._bytes >= self._size:
            self._flush()
        if self._bytes >= self._size:
            self._close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []

    def _close(self) -> None:
        self._flush()
        self._writer.__exit__(None)
        self.written.append({"name": self._name, "documents": self._documents, "bytes": self._bytes})
        self._writer, self._documents, self._bytes = None, 0, 0

    def __enter__(self) -> _Chunks:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and self._writer is not None:
            self._close()

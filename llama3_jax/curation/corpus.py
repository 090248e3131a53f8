"""From named sources of text to a tokenizer and the token shards of training and held-out documents."""

import dataclasses
import hashlib
import heapq
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama3_jax.curation.document import Document
from llama3_jax.curation.files import find_files, read_documents
from llama3_jax.curation.python_corpus import python_code, python_docs
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.token_shard import TokenShard
from llama3_jax.tokenizer.train_bpe import save_ranks, train_bpe
from llama3_jax.tokenizer.write_shards import write_shards

TOKENIZER_SAMPLE_BYTES = 2**28
"""The tokenizer learns from at most so much training text, a pseudo-random sample of all sources together."""

_FORMAT_VERSION = 2
_MARKER = "corpus.json"
_TOKENIZER = "tokenizer.model"
_SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class PythonDocs:
    """The prose of the running Python: language reference and docstrings."""

    kind: Literal["python_docs"] = "python_docs"


@dataclass(frozen=True, kw_only=True)
class PythonCode:
    """The source of the running Python's standard library."""

    kind: Literal["python_code"] = "python_code"


@dataclass(frozen=True, kw_only=True)
class Files:
    """Your own files."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...]
    """Files and directories: .txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a run trains on, and how it is cut into training and held-out documents."""

    kind: Literal["corpus"] = "corpus"
    sources: Mapping[str, PythonDocs | PythonCode | Files]
    """By name; shards, mix weights and metrics use the same names."""
    max_bytes_per_source: int | None
    """UTF-8 bytes; of a larger source, a pseudo-random subset of whole documents is taken. None takes all."""
    held_out_fraction: float
    """Of the documents, by id: in (0, 0.5]."""
    tokenizer_path: str | None = None
    """A tiktoken file to use; None learns one from the training documents."""
    shard_tokens: int = 2**24
    """A shard is closed at the first document's end at or after so many tokens."""

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources is empty: name at least one")
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(f"source name {name!r}: use letters, digits, '_', '.', '-', since it names files")
        if self.max_bytes_per_source is not None and self.max_bytes_per_source <= 0:
            raise ValueError(f"max_bytes_per_source={self.max_bytes_per_source}: a positive number, or null for all")
        if not 0 < self.held_out_fraction <= 0.5:
            raise ValueError(f"held_out_fraction={self.held_out_fraction} must be above 0 and at most 0.5")
        if self.shard_tokens <= 0:
            raise ValueError(f"shard_tokens={self.shard_tokens} must be positive")


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """The size of one split of one source; tokens include one BOS and one EOS a document."""

    documents: int
    bytes: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class PreparedCorpus:
    """A finished corpus: its tokenizer and its shards, per source."""

    directory: Path
    tokenizer_path: Path
    train: dict[str, tuple[Path, ...]]
    held_out: dict[str, tuple[Path, ...]]
    counts: dict[str, dict[str, SplitCounts]]
    """By source, then "train" or "held_out"."""


def prepare_corpus(cfg: Corpus, directory: Path, *, vocab_size: int, report: Callable[[str], None] = print) -> PreparedCorpus:
    """Reads, splits and encodes the sources of `cfg` into `directory`; a second call finds the work done.

    What was prepared is used even where the input has changed or gone since, which is reported.
    Everything is a function of `cfg` and the input: which documents are taken, held out and in what order
    follows from hashes of their ids. A document held out of one source is held out of every source that has
    its id. The chosen documents of all sources are held in memory.

    A source that `cfg` names beyond those prepared is added, encoded with the tokenizer that is there; the
    shards of the others stay as they are.

    Args:
        vocab_size: ids of the tokenizer: 256 bytes, the merges and 256 special tokens.
        report: given one line at the end of each step.
    Raises:
        FileNotFoundError, ValueError: as the sources raise; if a source has too few documents to split; if
            the tokenizer does not have vocab_size ids; if `directory` holds a corpus of another config or
            input.
    """
    directory = Path(directory)
    config = _plain(cfg) | {"vocab_size": vocab_size}
    if (directory / _MARKER).exists():
        marker = _read_marker(directory)
        added = [name for name in cfg.sources if name not in marker["config"]["sources"]]
        _check_same(marker["config"], _without(config, added), directory)
        prepared = open_corpus(directory)
        num_tokens = sum(splits["train"].tokens for splits in prepared.counts.values())
        report(f"corpus: already prepared in {directory}, {num_tokens:,} training tokens")
        for name in _changed_inputs(cfg, marker["inputs"]):
            report(f"corpus: what {name} was read from has changed or gone since; the tokens of then are used")
        if not added:
            return prepared
        tokenizer = Tokenizer.load(prepared.tokenizer_path)
    else:
        marker = {"format_version": _FORMAT_VERSION, "inputs": {}, "held_out": [], "sources": {}}
        added = list(cfg.sources)
        tokenizer = None if cfg.tokenizer_path is None else _given_tokenizer(cfg.tokenizer_path, vocab_size)

    inputs = {name: _input(cfg.sources[name]) for name in added}
    directory.mkdir(parents=True, exist_ok=True)
    sources = {name: _choose(cfg, name, report) for name in added}
    held_out_ids = _held_out_ids(sources, cfg.held_out_fraction, set(marker["held_out"]))
    splits = {name: _split(documents, held_out_ids, name, cfg.held_out_fraction) for name, documents in sources.items()}
    if tokenizer is None:
        training = [document for split in splits.values() for document in split["train"]]
        tokenizer = _learn_tokenizer(training, vocab_size, report)
    if not marker["sources"]:
        save_ranks(directory / _TOKENIZER, tokenizer.tokens)
    written = {
        name: {
            split: _write_split(documents, directory, name, split, tokenizer, cfg.shard_tokens, report)
            for split, documents in split_documents.items()
        }
        for name, split_documents in splits.items()
    }
    against_its_hash = [name for name in held_out_ids if not _is_held_out(name, cfg.held_out_fraction)]
    marker |= {
        "config": config, "inputs": marker["inputs"] | inputs, "held_out": sorted(against_its_hash),
        "tokenizer": tokenizer.fingerprint, "sources": marker["sources"] | written,
    }  # fmt: skip
    partial = directory / (_MARKER + ".partial")
    partial.write_text(json.dumps(marker, indent=1))
    os.replace(partial, directory / _MARKER)
    return open_corpus(directory)


def open_corpus(directory: Path) -> PreparedCorpus:
    """The corpus that `prepare_corpus` left in `directory`.

    Raises: FileNotFoundError if it was not finished; ValueError if its marker cannot be read, or if a shard
        is missing, cut short or of another vocabulary than the marker's.
    """
    directory = Path(directory)
    marker = _read_marker(directory)
    shards: dict[str, dict[str, tuple[Path, ...]]] = {split: {} for split in _SPLITS}
    counts: dict[str, dict[str, SplitCounts]] = {}
    for source, splits in marker["sources"].items():
        counts[source] = {}
        for split, written in splits.items():
            shards[split][source] = tuple(directory / name for name in written["shards"])
            counts[source][split] = SplitCounts(**written["counts"])
            for path in shards[split][source]:
                TokenShard(path, tokenizer_fingerprint=marker["tokenizer"])
    tokenizer_path = directory / _TOKENIZER
    if not tokenizer_path.is_file():
        raise ValueError(f"{tokenizer_path} is missing; delete {directory} and prepare it again")
    return PreparedCorpus(directory=directory, tokenizer_path=tokenizer_path, **shards, counts=counts)


def _hash(purpose: str, document_id: str) -> int:
    """64 pseudo-random bits; another purpose gives independent ones."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{document_id}".encode()).digest()[:8])


def _documents_of(source: PythonDocs | PythonCode | Files) -> Iterator[Document]:
    match source:
        case PythonDocs():
            return python_docs()
        case PythonCode():
            return python_code()
        case Files():
            return read_documents(source.paths)


def _choose(cfg: Corpus, name: str, report: Callable[[str], None]) -> list[Document]:
    """The documents of a source, shuffled; under a budget, those that fit it in the order of a hash."""
    start = time.perf_counter()
    budget = float("inf") if cfg.max_bytes_per_source is None else cfg.max_bytes_per_source
    chosen: list[tuple[int, int, Document]] = []  # a heap: the largest hash on top
    num_read, num_bytes, bound = 0, 0, 2**64
    for num_read, document in enumerate(_documents_of(cfg.sources[name]), start=1):
        key = _hash("choose", document.id)
        if key >= bound:
            continue
        heapq.heappush(chosen, (-key, -num_read, document))
        num_bytes += _num_bytes(document)
        while num_bytes > budget:
            key, _, dropped = heapq.heappop(chosen)
            bound = -key  # later ones may not slip into the room that a dropped one leaves
            num_bytes -= _num_bytes(dropped)
    if not chosen:
        raise ValueError(
            f"source {name}: no document fits max_bytes_per_source={cfg.max_bytes_per_source}; "
            "raise it to at least the size of a few documents"
        )
    size = f"{len(chosen):,} of {num_read:,} documents, {num_bytes / 1e6:.1f} MB"
    report(f"{name}: {size}, read in {_since(start)}")
    return [document for _, _, document in sorted(chosen, key=lambda entry: (_hash("order", entry[2].id), -entry[1]))]


def _held_out_ids(sources: Mapping[str, Sequence[Document]], fraction: float, before: set[str]) -> set[str]:
    """The ids of `before`, those below the fraction and, for a source that has none of them, its lowest.

    A source of a single document has none: it is cut instead.
    """
    held_out = before | {d.id for documents in sources.values() for d in documents if _is_held_out(d.id, fraction)}
    for documents in sources.values():
        ids = {document.id for document in documents}
        if len(documents) > 1 and held_out.isdisjoint(ids):
            held_out.add(min(ids, key=lambda name: _hash("held_out", name)))
    return held_out


def _is_held_out(document_id: str, fraction: float) -> bool:
    return _hash("held_out", document_id) < fraction * 2**64


def _split(documents: Sequence[Document], held_out_ids: set[str], name: str, fraction: float) -> dict[str, list[Document]]:
    if len(documents) == 1 and len(documents[0].text) > 1:
        begin, end = _cut(documents[0], fraction)
        return {"train": [begin], "held_out": [end]}
    train = [document for document in documents if document.id not in held_out_ids]
    if not train:
        raise ValueError(
            f"source {name}: all {len(documents)} documents are held out, none is left to train on; give it "
            "more documents (at least two different ids) or a smaller held_out_fraction"
        )
    return {"train": train, "held_out": [document for document in documents if document.id in held_out_ids]}


def _cut(document: Document, fraction: float) -> tuple[Document, Document]:
    """A source that is one document, a book say: all but its end, at a paragraph or line if it has any, and its end."""
    name, text, language = document
    cut = max(1, min(len(text) - 1, round(len(text) * (1 - fraction))))
    for boundary in ("\n\n", "\n", " "):
        found = text.rfind(boundary, cut // 2, cut)
        if found > 0:
            cut = found + len(boundary)
            break
    return Document(f"{name}#begin", text[:cut], language), Document(f"{name}#end", text[cut:], language)


def _given_tokenizer(path: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"tokenizer_path={path} has {tokenizer.vocab_size} ids, the config says vocab_size={vocab_size}; "
            f"set vocab_size={tokenizer.vocab_size}, or choose another tokenizer"
        )
    return tokenizer


def _learn_tokenizer(documents: Sequence[Document], vocab_size: int, report: Callable[[str], None]) -> Tokenizer:
    start = time.perf_counter()
    sample = _sample(documents, TOKENIZER_SAMPLE_BYTES)
    tokenizer = Tokenizer(train_bpe((document.text for document in sample), vocab_size=vocab_size))
    num_bytes = sum(map(_num_bytes, sample))
    report(f"tokenizer: {vocab_size:,} ids learned from {num_bytes / 1e6:.1f} MB in {_since(start)}")
    return tokenizer


def _sample(documents: Sequence[Document], max_bytes: int) -> list[Document]:
    shuffled = sorted(documents, key=lambda document: _hash("sample", document.id))
    sizes = itertools.accumulate(map(_num_bytes, shuffled), initial=0)
    return [document for document, before in zip(shuffled, sizes, strict=False) if before < max_bytes]


def _write_split(
    documents: Sequence[Document],
    directory: Path,
    source: str,
    split: str,
    tokenizer: Tokenizer,
    shard_tokens: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Encodes a split into numbered shards; returns their names and counts, for the marker."""
    start = time.perf_counter()
    names, num_tokens = write_shards(
        (document.text for document in documents), directory, f"{source}-{split}", source=source, tokenizer=tokenizer,
        shard_tokens=shard_tokens,
    )  # fmt: skip
    counts = SplitCounts(documents=len(documents), bytes=sum(map(_num_bytes, documents)), tokens=num_tokens)
    characters_per_token = sum(len(document.text) for document in documents) / (num_tokens - 2 * len(documents))
    report(
        f"{source} {split}: {counts.documents:,} documents, {counts.bytes / 1e6:.1f} MB, {num_tokens:,} "
        f"tokens in {len(names)} shard(s), {characters_per_token:.2f} characters per token, {_since(start)}"
    )
    return {"shards": names, "counts": dataclasses.asdict(counts)}


def _num_bytes(document: Document) -> int:
    return len(document.text.encode())


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"


def _plain(cfg: Corpus) -> dict[str, Any]:
    """The config as JSON gives it back."""
    fields = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    sources = {name: dataclasses.asdict(source) for name, source in cfg.sources.items()}
    return json.loads(json.dumps(fields | {"sources": sources}))


def _input(source: PythonDocs | PythonCode | Files) -> str:
    return _files_hash(source.paths) if isinstance(source, Files) else _digest(sys.version)


def _changed_inputs(cfg: Corpus, before: Mapping[str, str]) -> Iterator[str]:
    """The sources of `before` whose input is not there any more, or is not what it was."""
    for name, digest in before.items():
        try:
            same = _input(cfg.sources[name]) == digest
        except (OSError, ValueError):
            same = False
        if not same:
            yield name


def _files_hash(paths: Sequence[str]) -> str:
    stats = [(str(file), file.stat()) for file in find_files(paths)]
    return _digest(json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_marker(directory: Path) -> dict[str, Any]:
    path = directory / _MARKER
    if not path.is_file():
        raise FileNotFoundError(f"no {_MARKER} in {directory}: nothing was prepared there, or not to the end")
    try:
        marker = json.loads(path.read_text())
        version = marker["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {directory} and prepare it again") from error
    if version != _FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version}, this library reads {_FORMAT_VERSION}; update llama3_jax, "
            f"or delete {directory} and prepare it again"
        )
    return marker


def _check_same(made: Mapping[str, Any], asked: Mapping[str, Any], directory: Path) -> None:
    """Raises: ValueError naming the first value in which the config of the finished corpus differs from this one."""
    made, asked = _flat(made), _flat(asked)
    for name in {**made, **asked}:
        if made.get(name) != asked.get(name):
            raise ValueError(
                f"{directory} holds another corpus: it has {name}={made.get(name)!r}, this run asks for "
                f"{asked.get(name)!r}. Choose another run name or directory, or delete that directory"
            )


def _without(config: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
    return {**config, "sources": {name: source for name, source in config["sources"].items() if name not in sources}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

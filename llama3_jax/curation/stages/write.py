"""Documents to a tokenizer and the token shards that a training run reads, split into training and held-out documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.partition import Context, Partition
from llama3_jax.curation.step import Facts, Piece, Task, digest, file_digest
from llama3_jax.curation.tally import total
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.train_bpe import save_ranks, train_bpe
from llama3_jax.tokenizer.write_shards import write_shards

STAGE = "write"
TOKENIZER = "tokenizer.model"
_SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class Write:
    """What the shards are made with."""

    tokenizer_path: str | None = None
    """A tiktoken file; null learns one from a sample of the training documents."""
    vocab_size: int | None = None
    """Ids of a tokenizer that is learned, 256 special ones among them."""
    tokenizer_sample_bytes: int = 2**28
    held_out_fraction: float = 0.005
    """Of the documents, by hash of their ids; at least one of each group."""
    shard_tokens: int = 2**26
    """A shard is closed at the first document's end at or after so many tokens."""

    def __post_init__(self):
        if (self.tokenizer_path is None) == (self.vocab_size is None):
            raise ValueError("give tokenizer_path, or vocab_size to learn a tokenizer of that many ids; one of the two")
        if not 0 < self.held_out_fraction <= 0.5:
            raise ValueError(f"held_out_fraction={self.held_out_fraction} must be above 0 and at most 0.5")


@dataclass(frozen=True)
class Written:
    """The finished shards."""

    tokenizer_path: Path
    vocab_size: int
    shards: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Split -> group -> patterns."""
    counts: Mapping[str, Mapping[str, list[int]]]
    """Group -> split -> documents, bytes, tokens."""


def write_documents(context: Context, partitions: Sequence[Partition], settings: Write, groups: Mapping[str, str]) -> Written:
    """Encodes every partition into shards of its own.

    Args:
        groups: source -> the name under which its documents are mixed in training.
    Raises: ValueError if there is no document, or a group has only one.
    """
    partitions = [partition for partition in partitions if partition.documents]
    if not partitions:
        raise ValueError("no document is left to write; look at the report for what rejected them")
    lowest = context.over(f"{STAGE}/split", partitions, _lowest)
    held_out = _always_held_out(partitions, lowest, groups, settings.held_out_fraction)
    rule = (settings.held_out_fraction, tuple(sorted(held_out)))
    tokenizer = _tokenizer(context, partitions, settings, rule)
    also = [(tokenizer / TOKENIZER, file_digest(tokenizer / TOKENIZER))] * len(partitions)
    named = tuple(sorted(groups.items()))
    work = partial(_encode, groups=dict(groups), rule=rule, shard_tokens=settings.shard_tokens)
    pieces = context.over(f"{STAGE}/shards", partitions, work, (named, rule, settings.shard_tokens), also=also)
    counts = total(piece.facts["counts"] for piece in pieces)
    directory = pieces[0].directory.parent
    shards = {
        split: {group: (str(directory / "*" / f"{group}-{split}-*.arrayrecord"),) for group in sorted(counts)}
        for split in _SPLITS
    }
    if short := [group for group in counts if not counts[group].get("train", [0])[0]]:
        raise ValueError(
            f"{', '.join(short)} has a single document, and one is held out; give its sources more, or the same `mix`"
        )
    path = tokenizer / TOKENIZER
    return Written(path, Tokenizer.load(path).vocab_size, shards, counts)


def _share(name: str) -> float:
    """A number in [0, 1) that a document's id decides."""
    return int.from_bytes(hashlib.blake2b(f"held_out\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


def _lowest(inputs, directory: Path) -> Facts:
    _, partition, _ = inputs
    found = min((_share(name), name) for table in read_groups(partition.path, ["id"]) for name in table["id"].to_pylist())
    return {"lowest": list(found)}


def _always_held_out(
    partitions: Sequence[Partition], lowest: Sequence[Piece], groups: Mapping[str, str], fraction: float
) -> set[str]:
    """Of each group without a document below the fraction, the id that comes nearest to it."""
    of_group: dict[str, tuple[float, str]] = {}
    for partition, piece in zip(partitions, lowest, strict=True):
        group, found = groups[partition.source], tuple(piece.facts["lowest"])
        of_group[group] = min(of_group.get(group, found), found)
    return {name for share, name in of_group.values() if share >= fraction}


def _is_held_out(name: str, rule: tuple[float, tuple[str, ...]]) -> bool:
    return _share(name) < rule[0] or name in rule[1]


def _tokenizer(context: Context, partitions: Sequence[Partition], settings: Write, rule) -> Path:
    """The directory of the tokenizer."""
    if settings.tokenizer_path is not None:
        path = Path(settings.tokenizer_path).expanduser()
        task = Task(inputs=path, digest=file_digest(path), size=1)
        return context.step(f"{STAGE}/tokenizer", [task], _copy)[0].directory
    share = min(1.0, settings.tokenizer_sample_bytes / max(1, sum(partition.bytes for partition in partitions)))
    task = Task(inputs=(tuple(partitions), share, rule), digest=digest([p.digest for p in partitions]), size=1)
    work = partial(_learn, vocab_size=settings.vocab_size)
    return context.step(f"{STAGE}/tokenizer", [task], work, (settings.vocab_size, share, rule))[0].directory


def _copy(path: Path, directory: Path) -> Facts:
    save_ranks(directory / TOKENIZER, Tokenizer.load(path).tokens)
    return {}


def _learn(inputs, directory: Path, *, vocab_size: int) -> Facts:
    partitions, share, rule = inputs

    def texts() -> Iterator[str]:
        for partition in partitions:
            for table in read_groups(partition.path, ["id", "text"]):
                for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                    chosen = share >= 1 or _share(f"sample\0{name}") < share
                    if chosen and not _is_held_out(name, rule):
                        yield text

    save_ranks(directory / TOKENIZER, train_bpe(texts(), vocab_size=vocab_size))
    return {}


def _encode(inputs, directory: Path, *, groups: Mapping[str, str], rule, shard_tokens: int) -> Facts:
    _, partition, path = inputs
    group, tokenizer = groups[partition.source], Tokenizer.load(path)
    counts = {split: [0, 0, 0] for split in _SPLITS}

    def texts(split: str) -> Iterator[str]:
        for table in read_groups(partition.path, ["id", "text"]):
            for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if _is_held_out(name, rule) == (split == "held_out"):
                    counts[split][0] += 1
                    counts[split][1] += len(text.encode())
                    yield text

    for split in _SPLITS:
        _, counts[split][2] = write_shards(
            texts(split), directory, f"{group}-{split}", source=group, tokenizer=tokenizer, shard_tokens=shard_tokens,
            num_threads=1,
        )  # fmt: skip
    return {"counts": {group: counts}}


def as_run_data(written: Written) -> str:
    """The `data` of a training run, as JSON, which is YAML."""
    return json.dumps({"kind": "shards", "tokenizer_path": str(written.tokenizer_path), **written.shards}, indent=1)

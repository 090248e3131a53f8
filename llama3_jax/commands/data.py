"""The data of a run: its tokenizer and the token streams of its sources, made from documents where need be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.batches.shards import Shards, open_shards
from llama3_jax.batches.source import Source
from llama3_jax.batches.stream import TokenStream
from llama3_jax.commands.run import TrainRun
from llama3_jax.commands.run_directory import TOKENIZER
from llama3_jax.curation.corpus import open_corpus, prepare_corpus
from llama3_jax.sharding import processes
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.object_store import located
from llama3_jax.tokenizer.token_shard import TokenShard


@dataclass(frozen=True, kw_only=True)
class RunData:
    tokenizer: Tokenizer
    train: Mapping[str, Source]
    held_out: Mapping[str, TokenStream]
    fingerprints: Mapping[str, str]
    """Source -> digest of its training shards; batches are a function of them."""


def open_data(run: TrainRun, directory: Path, report: Callable[[str], None]) -> RunData:
    """Opens the shards of a run, writing them below `directory`/data first if the run starts from documents.

    The tokenizer is copied into `directory`, so that the run can be generated from wherever it is moved to.

    Raises: ValueError, FileNotFoundError: as the corpus, the tokenizer file and the shards do.
    """
    if isinstance(run.data, Shards):
        tokenizer_path, train, held_out = run.data.tokenizer_path, run.data.train, run.data.held_out
    else:
        place, vocab_size = directory / "data", run.model.vocab_size
        processes.once("corpus", lambda: prepare_corpus(run.data, place, vocab_size=vocab_size, report=report))
        corpus = open_corpus(place)
        tokenizer_path, train, held_out = corpus.tokenizer_path, corpus.train, corpus.held_out
    tokenizer = Tokenizer.load(tokenizer_path)
    if tokenizer.vocab_size != run.model.vocab_size:
        raise ValueError(
            f"{tokenizer_path} has {tokenizer.vocab_size} ids, model.vocab_size is {run.model.vocab_size}; set "
            f"model.vocab_size={tokenizer.vocab_size} or name the tokenizer the shards were made with"
        )
    processes.once("tokenizer", lambda: (directory / TOKENIZER).write_bytes(located(tokenizer_path).read_bytes()))

    train, held_out = (
        {
            name: open_shards([str(path) for path in split[name]], tokenizer_fingerprint=tokenizer.fingerprint, report=report)
            for name in run.sources
        }
        for split in (train, held_out)
    )
    sources = {
        name: run.packing.source(TokenStream(shards, seed=seed), seed=seed, longest_row=run.longest_row)
        for name, shards in train.items()
        for seed in (f"{run.seed}/{name}",)
    }
    return RunData(
        tokenizer=tokenizer,
        train=sources,
        held_out={name: TokenStream(shards, seed=None) for name, shards in held_out.items()},
        fingerprints={name: _fingerprint(shards) for name, shards in train.items()},
    )


def _fingerprint(shards: list[TokenShard]) -> str:
    """Of what the shards hold, whatever they are called."""
    return hashlib.sha256("".join(sorted(shard.header.sha256 for shard in shards)).encode()).hexdigest()

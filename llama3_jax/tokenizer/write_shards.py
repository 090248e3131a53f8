"""Texts to token shards: encoded on every core while they are written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.token_shard import TokenShardWriter


def write_shards(
    texts: Iterable[str],
    directory: Path,
    prefix: str,
    *,
    source: str,
    tokenizer: Tokenizer,
    shard_tokens: int,
    num_threads: int | None = None,
) -> tuple[list[str], int]:
    """Writes each text as a document, BOS first and EOS last, into PREFIX-00000.arrayrecord and so on.

    Args:
        shard_tokens: a shard is closed at the first document's end at or after so many tokens.
        num_threads: that encode; None for one on each core.
    Returns: file names, tokens in all of them. Raises: OSError if the disk fails.
    """
    names, num_tokens = [], 0
    encoded = tokenizer.encode_batch(texts, bos=True, eos=True, num_threads=num_threads)
    for first in encoded:
        names.append(f"{prefix}-{len(names):05d}.arrayrecord")
        with TokenShardWriter(
            directory / names[-1], source=source, tokenizer_fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size
        ) as shard:
            for ids in chain([first], encoded):
                shard.write(ids)
                if shard.num_tokens >= shard_tokens:
                    break
            num_tokens += shard.num_tokens
    return names, num_tokens

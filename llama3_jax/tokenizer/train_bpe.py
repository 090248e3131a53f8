"""Learns byte-pair ranks from text, with Llama 3's split pattern, and saves them as a tiktoken file."""

import base64
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from llama3_jax.tokenizer.bpe import SPLIT_PATTERN
from llama3_jax.tokenizer.special_tokens import NUM_SPECIAL_TOKENS

_SPARE_MERGES = 16
"""One merge in so many is learned in reserve: two may spell one token (a+bc, ab+c), which counts once."""


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> list[bytes]:
    """The `vocab_size - 256` tokens, in rank order, that the most frequent merges of `texts` give.

    Deterministic: the same texts give the same tokens, on any number of threads. Texts are streamed; memory
    grows with the number of distinct words.

    Args:
        vocab_size: ids altogether: 256 bytes, the merges, 256 special tokens.
    Raises: ValueError if vocab_size leaves no room for the bytes or the texts hold too few different merges;
        ModuleNotFoundError without the `rustbpe` package.
    """
    num_bytes = 256
    num_tokens = vocab_size - NUM_SPECIAL_TOKENS
    num_merges = num_tokens - num_bytes
    if num_merges < 0:
        raise ValueError(f"vocab_size={vocab_size} is below 512: 256 bytes and 256 special tokens come before any merge")
    try:
        import rustbpe
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("training a tokenizer needs the `rustbpe` package: pip install rustbpe") from error

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), num_tokens + -(-num_merges // _SPARE_MERGES), pattern=SPLIT_PATTERN)
    by_rank = sorted(trainer.get_mergeable_ranks(), key=lambda entry: entry[1])
    tokens = list(dict.fromkeys(bytes(token) for token, _ in by_rank))[:num_tokens]
    if len(tokens) < num_tokens:
        raise ValueError(
            f"the texts gave {len(tokens) - num_bytes} merges, vocab_size={vocab_size} asks for "
            f"{num_merges}; give more text, or vocab_size={len(tokens) + NUM_SPECIAL_TOKENS} at most "
            "(in a run file: model.vocab_size)"
        )
    return tokens


def save_ranks(path: str | Path, tokens: Sequence[bytes]) -> None:
    """Writes the tiktoken file that `Tokenizer.load` reads; it appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
    os.replace(partial, path)

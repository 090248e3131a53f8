"""Ids to text one by one, as a model says them: a character appears when its last byte is there, never half of it."""

from __future__ import annotations

import codecs

from llama3_jax.tokenizer.bpe import Tokenizer


class IncrementalDecoder:
    """What `add` and `end` give, put together, is `Tokenizer.decode` of all the ids."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """The characters that this id completes; special tokens by name.

        Raises: ValueError for an id outside the vocabulary.
        """
        return self._decoder.decode(self._tokenizer.bytes_of(token_id))

    def end(self) -> str:
        """What is left of a character that never came whole, as U+FFFD; another text may begin."""
        left = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return left

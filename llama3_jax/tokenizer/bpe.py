"""The Llama 3 tokenizer: byte-pair ranks of a tiktoken file, Meta's split pattern, 256 special tokens."""

import base64
import binascii
import hashlib
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import tiktoken
from etils import epath

from llama3_jax.tokenizer.hugging_face import read_tokens
from llama3_jax.tokenizer.object_store import located, store_errors
from llama3_jax.tokenizer.special_tokens import (
    BEGIN_OF_TEXT,
    END_OF_MESSAGE,
    END_OF_TEXT,
    END_OF_TURN,
    SPECIAL_TOKENS,
    Naming,
)

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Cuts text into the pieces inside which bytes merge; byte for byte that of Meta's `tokenizer.py`."""

_TEXTS_AT_A_TIME = 16
"""That a thread is given."""
_BATCHES_AHEAD = 8
"""For each thread: so that none waits while one has a long text."""
_MAX_SLICE_CHARS = 400_000
_MAX_RUN_CHARS = 25_000
_LONG_RUN = re.compile(rf"(?<!\s)\s{{{_MAX_RUN_CHARS + 1},}}|(?<!\S)\S{{{_MAX_RUN_CHARS + 1},}}")


class Tokenizer:
    """Text to ids 0..n-1 by byte-pair ranks; ids n..n+255 are control tokens that no text can produce.

    Attributes:
        tokens: the bytes of ids 0..n-1.
        vocab_size: n + 256.
        bos_id, eos_id: `<|begin_of_text|>`, `<|end_of_text|>`.
        stop_ids: the ids at which generation ends: end of text, of message, of turn.
        fingerprint: sha256 (hex) over ranks, split pattern and special names; equal means equal ids for equal
            text.
        token_bytes: int32 [vocab_size], the length of each id in UTF-8 bytes; 0 for the special ones.
    """

    def __init__(self, tokens: Sequence[bytes]):
        """Takes the tokens in rank order.

        Raises: ValueError if a token is empty or repeated, or if one of the 256 single bytes is missing.
        """
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) != len(tokens) or b"" in ranks:
            num_good = len(ranks) - (b"" in ranks)
            raise ValueError(f"{len(tokens)} tokens, of which only {num_good} are distinct and not empty")
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise ValueError(
                f"no token for the single byte {missing[0]:#04x} ({len(missing)} of 256 missing): some text could not be encoded"
            )
        self.tokens = tuple(tokens)
        self._special_ids = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self._encoding = tiktoken.Encoding(
            "llama3", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self._special_ids
        )
        self.vocab_size = len(tokens) + len(SPECIAL_TOKENS)
        self.bos_id = self.special_id(BEGIN_OF_TEXT)
        self.eos_id = self.special_id(END_OF_TEXT)
        self.stop_ids = frozenset(map(self.special_id, (END_OF_TEXT, END_OF_MESSAGE, END_OF_TURN)))
        self.fingerprint = _fingerprint(tokens)
        self.token_bytes = np.array([*map(len, tokens), *[0] * len(SPECIAL_TOKENS)], np.int32)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a tiktoken file, here or on an object store: `base64(token) rank` lines, ranks 0, 1, 2, ... in order; or
        the `tokenizer.json` of a Llama 3 at Hugging Face.

        Raises: FileNotFoundError, OSError; ValueError naming the file, the line and what is right there.
        """
        path = located(path)
        if path.name.endswith(".json"):
            return cls(read_tokens(path, SPLIT_PATTERN))
        with store_errors(path):
            if not path.is_file():
                raise FileNotFoundError(f"no tokenizer at {path}: give the `tokenizer.model` of a Llama 3 release, or train one")
            data = path.read_bytes()
        tokens = _read_tokens(data, path)
        try:
            return cls(tokens)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; fetch the file again, or train another") from error

    def special_id(self, name: str, naming: Naming = Naming.LLAMA_3_1) -> int:
        """The id of a special token, `<|eot_id|>` say, as a release names it. Raises: KeyError for another name."""
        if naming is Naming.LLAMA_3_1:
            return self._special_ids[name]
        if name not in naming.names:
            raise KeyError(name)
        return len(self.tokens) + naming.names.index(name)

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that an id stands for; of a special token its name. Raises: ValueError for one outside the vocabulary."""
        self._checked([token_id])
        return self._encoding.decode_single_token_bytes(token_id)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, in which `<|eot_id|>` and the like are ordinary characters.

        Long text is encoded in slices and long runs are broken as Meta's tokenizer does, so that ids agree.
        A lone surrogate, which is not text, becomes U+FFFD.
        """
        ids = [self.bos_id] if bos else []
        for piece in _pieces(text):
            ids += self._encoding.encode_ordinary(piece)
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_batch(
        self, texts: Iterable[str], *, bos: bool = False, eos: bool = False, num_threads: int | None = None
    ) -> Iterator[np.ndarray]:
        """`encode` of every text in turn, as uint32: on threads (tiktoken releases the interpreter lock), some texts ahead.

        Args: num_threads: None for one on each core.
        """
        num_threads = num_threads or os.cpu_count() or 1
        texts, waiting = iter(texts), deque()

        def encoded(batch: list[str]) -> list[np.ndarray]:
            return [self._array(text, bos, eos) for text in batch]

        with ThreadPoolExecutor(num_threads) as threads:
            while batch := list(islice(texts, _TEXTS_AT_A_TIME)):
                waiting.append(threads.submit(encoded, batch))
                if len(waiting) > _BATCHES_AHEAD * num_threads:
                    yield from waiting.popleft().result()
            for each in waiting:
                yield from each.result()

    def _array(self, text: str, bos: bool, eos: bool) -> np.ndarray:
        """As `encode`, without a Python number for each token, which takes a fifth of the time."""
        ids = [_numbers(self._encoding, piece) for piece in _pieces(text)]
        return np.frombuffer(b"".join([_id(self.bos_id) * bos, *ids, _id(self.eos_id) * eos]), np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens appear by name, broken UTF-8 as U+FFFD.

        Raises: ValueError for an id outside the vocabulary.
        """
        return self._encoding.decode_bytes(self._checked(ids).tolist()).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`, to which special tokens contribute nothing.

        Raises: ValueError for an id outside the vocabulary.
        """
        ids = self._checked(ids)
        return self._encoding.decode_bytes(ids[ids < len(self.tokens)].tolist())

    def _checked(self, ids: Iterable[int]) -> np.ndarray:
        ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(f"token id {wrong[0]} is outside this tokenizer's 0..{self.vocab_size - 1}")
        return ids


def _id(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _numbers(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    """uint32 ids of ordinary text."""
    try:
        return encoding.encode_to_numpy(text, disallowed_special=())
    except UnicodeEncodeError:  # a lone surrogate becomes U+FFFD, as in encode_ordinary
        return encoding.encode_to_numpy(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), disallowed_special=())


def _read_tokens(data: bytes, path: Path | epath.Path) -> list[bytes]:
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines()):
        where = f"{path}, line {number + 1}"
        try:
            encoded, rank = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{where}: {line[:60]!r} is not `base64 rank`; the file is damaged or no tiktoken rank file"
            ) from None
        if rank != number:
            raise ValueError(f"{where}: rank {rank} where {number} belongs; ranks run 0, 1, 2, ... without gaps")
        if token in tokens:
            raise ValueError(f"{where}: {token!r} is already the token of line {tokens[token] + 1}")
        tokens[token] = rank
    return list(tokens)


def _fingerprint(tokens: Sequence[bytes]) -> str:
    parts = [SPLIT_PATTERN.encode(), *(name.encode() for name in SPECIAL_TOKENS), *tokens]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).hexdigest()


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _MAX_SLICE_CHARS):
        piece = text[start : start + _MAX_SLICE_CHARS]
        if not _has_long_run(piece):
            yield piece
            continue
        begin = 0
        for run in _LONG_RUN.finditer(piece):
            for end in range(run.start() + _MAX_RUN_CHARS, run.end(), _MAX_RUN_CHARS):
                yield piece[begin:end]
                begin = end
        yield piece[begin:]


def _has_long_run(text: str) -> bool:
    """Whether more than `_MAX_RUN_CHARS` characters in a row are white space, or are not.

    Such a run holds a character at a multiple of that number, so only the runs around those are looked at.
    """
    for middle in range(0, len(text), _MAX_RUN_CHARS):
        space, start, end = text[middle].isspace(), middle, middle + 1
        while end < len(text) and end - start <= _MAX_RUN_CHARS and text[end].isspace() == space:
            end += 1
        while start and end - start <= _MAX_RUN_CHARS and text[start - 1].isspace() == space:
            start -= 1
        if end - start > _MAX_RUN_CHARS:
            return True
    return False

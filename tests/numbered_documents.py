"""Sources whose every token is another number, so that a token says where it came from."""

import hashlib
from types import SimpleNamespace

import numpy as np

from llama3_jax.batches.packing import Packing
from llama3_jax.batches.shuffle import ShuffledStream
from llama3_jax.batches.stream import TokenStream


class MemoryShard:
    """As much of a `TokenShard` as a stream reads, without a file."""

    def __init__(self, documents):
        self._documents = documents
        self.lengths = np.array([document.size for document in documents], np.int64)
        self.header = SimpleNamespace(
            sha256=hashlib.sha256(np.concatenate(documents)).hexdigest(), num_tokens=int(self.lengths.sum())
        )

    def __len__(self):
        return len(self._documents)

    def __getitem__(self, number):
        return self._documents[number]


def number_documents(lengths, first=0):
    """uint32 documents of these lengths: first, first + 1, ..."""
    ends = first + np.cumsum(lengths)
    return [np.arange(end - length, end, dtype=np.uint32) for length, end in zip(lengths, ends, strict=True)]


def make_stream(lengths, *, first=0, seed=0, num_shards=2, window=1 << 16):
    documents = number_documents(lengths, first)
    shards = [MemoryShard(documents[k::num_shards]) for k in range(min(num_shards, len(documents)))]
    return TokenStream(shards, seed=seed, window=window)


def make_shuffled(lengths, *, block=1 << 30, **how):
    """A stream shuffled in blocks; by default one block, in the order of the stream."""
    return ShuffledStream(make_stream(lengths, **how), seed=7, block=block)


def make_source(lengths, *, packing=Packing.CONCATENATE, longest_row=1 << 30, **how):
    """A source under a packing policy; when it concatenates, by default in one block, in the order of the stream."""
    return packing.source(make_stream(lengths, **how), seed="7", longest_row=longest_row)


def concatenated(pieces):
    return np.concatenate([np.zeros(0, np.uint32), *pieces])


def all_rows(rows):
    """Every row of a `StageRows`."""
    return [rows[number] for number in range(len(rows))]

"""What a stage reads from one source: rows by number, and where reading stops. Each packing policy gives its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llama3_jax.batches.stream import TokenStream


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a policy makes of a stretch of a source. Tallies add up."""

    positions: int = 0
    """Of all its rows."""
    tokens: int = 0
    """Positions that hold a token; the others are padding."""
    documents: int = 0
    """Documents that its rows hold something of."""
    cut: int = 0
    """Documents that are not whole in one row; when rows are cut from a concatenation, an estimate from one window."""
    dropped: int = 0
    """Tokens that are passed over and in no row."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class Stretch(Protocol):
    """The rows that one stage takes from one source, in their shuffled order.

    `stretch[ordinal]` is the pieces of a row: token ids, one array a document, at most a row's length together, and
    after a full row the token that follows it in the stream.
    """

    start: int
    """Token position in the source's stream where it begins."""
    end: int
    """Token position where the next stage goes on."""
    tally: Tally
    order: str
    """Policy and settings that the order of its tokens depends on, to be compared by a run that goes on."""

    def __getitem__(self, ordinal: int) -> list[np.ndarray]: ...


class Source(Protocol):
    """A source under a packing policy; what it gives is a function of its seed and of what is asked, nothing else."""

    stream: TokenStream

    @property
    def num_tokens(self) -> int:
        """Of one epoch."""
        ...

    def stretch(self, start: int, num_rows: int, length: int) -> Stretch:
        """`num_rows` rows of `length` positions from token position `start` on."""
        ...

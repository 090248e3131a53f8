"""Which source a row comes from: a closed form of the row number, exact over every period (section 3.1.2).

Shape letters: P slots of a period, C sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

PERIOD = 4096
"""Rows after which the pattern repeats; weights are kept to one part in this many."""


class Mix:
    """Row k of a stage is row `ordinal` of source `locate(k)`, with the sources spread evenly by weight."""

    def __init__(self, weights: Mapping[str, float], sources: Sequence[str]):
        """Neither the order of `sources` nor one more that has no weight changes which rows a source gets.

        Raises: ValueError if a weight names no source of the run.
        """
        for name in weights:
            if name not in sources:
                raise ValueError(f"the mix names source {name!r}, the data has {', '.join(sources)}; rename or remove it")
        self._sources = tuple(sources)
        by_name = sorted(range(len(sources)), key=lambda c: sources[c])
        share_C = np.array([weights.get(sources[c], 0.0) for c in by_name], np.float64)
        slots_C = _apportion(share_C / share_C.sum())
        ideal = [((np.arange(slots) + 0.5) / slots, np.full(slots, rank)) for rank, slots in enumerate(slots_C) if slots]
        place_P, rank_P = (np.concatenate(column) for column in zip(*ideal, strict=True))
        self._source_P = np.array(by_name)[rank_P[np.lexsort((rank_P, place_P))]]
        before_PC = np.zeros((PERIOD + 1, len(sources)), np.int64)
        np.cumsum(self._source_P[:, None] == np.arange(len(sources)), axis=0, out=before_PC[1:])
        self._before_PC = before_PC

    @property
    def slots(self) -> dict[str, int]:
        """Rows of each source that has any, in a period of `PERIOD` rows."""
        return {name: int(n) for name, n in sorted(zip(self._sources, self._before_PC[-1], strict=True)) if n}

    def locate(self, row: int) -> tuple[int, int]:
        """(number of the source, rows of that source before this one)."""
        source = int(self._source_P[row % PERIOD])
        return source, int(self.counts(row)[source])

    def counts(self, num_rows: int) -> np.ndarray:
        """int64 [C]: rows of each source among the first `num_rows`."""
        periods, rest = divmod(num_rows, PERIOD)
        return periods * self._before_PC[-1] + self._before_PC[rest]


def _apportion(share_C: np.ndarray) -> np.ndarray:
    """Slots of a period by largest remainder; a source that is wanted gets at least one."""
    slots_C = np.maximum(np.floor(share_C * PERIOD).astype(np.int64), share_C > 0)
    by_remainder = np.argsort(-(share_C * PERIOD - slots_C), kind="stable")
    while slots_C.sum() < PERIOD:
        slots_C[by_remainder[: PERIOD - slots_C.sum()]] += 1
    slots_C[np.argmax(slots_C)] -= slots_C.sum() - PERIOD
    return slots_C

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
        """Raises: ValueError if a weight names no source of the run."""
        for name in weights:
            if name not in sources:
                raise ValueError(f"the mix names source {name!r}, the data has {', '.join(sources)}; rename or remove it")
        share_C = np.array([weights.get(name, 0.0) for name in sources], np.float64)
        slots_C = _apportion(share_C / share_C.sum())
        ideal = [((np.arange(slots) + 0.5) / slots, np.full(slots, c)) for c, slots in enumerate(slots_C) if slots]
        place_P, source_P = (np.concatenate(column) for column in zip(*ideal, strict=True))
        self._source_P = source_P[np.lexsort((source_P, place_P))]
        before_PC = np.zeros((PERIOD + 1, len(sources)), np.int64)
        np.cumsum(self._source_P[:, None] == np.arange(len(sources)), axis=0, out=before_PC[1:])
        self._before_PC = before_PC

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

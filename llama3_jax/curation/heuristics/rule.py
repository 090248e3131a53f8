"""A rule: a measured value and the bounds that it must keep."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """One named measurement of a batch of documents, and the range that passes."""

    name: str
    """SET.MEASUREMENT, the reason of a rejection."""
    values: np.ndarray
    """float64, of each document; NaN where there is nothing to measure, which passes."""
    at_least: float | None = None
    at_most: float | None = None

    def broken(self) -> np.ndarray:
        broken = np.zeros(len(self.values), bool)
        if self.at_least is not None:
            broken |= self.values < self.at_least
        if self.at_most is not None:
            broken |= self.values > self.at_most
        return broken

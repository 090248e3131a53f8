"""Loss spikes: steps far above the losses just before them, worth a note (section 3.4.1 reports few of them)."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Sequence

WINDOW = 64
"""Losses that a new one is compared with."""
FEWEST = 16
DEVIATIONS = 10.0
"""Median absolute deviations above the median that make a spike."""


class SpikeWatch:
    def __init__(self, recent: Sequence[float] = ()) -> None:
        """Args: recent: of the watch that this one goes on from."""
        self._recent: collections.deque[float] = collections.deque(recent, maxlen=WINDOW)

    @property
    def recent(self) -> list[float]:
        """All that it remembers: the last losses that were finite."""
        return list(self._recent)

    def note(self, loss: float) -> str:
        """What to say of this loss, or an empty string."""
        recent, text = self.recent, ""
        if len(recent) >= FEWEST:
            median = statistics.median(recent)
            deviation = statistics.median(abs(value - median) for value in recent)
            if loss > median + DEVIATIONS * max(deviation, 1e-3 * abs(median)):
                text = f"loss spike: {loss:.3f} after a median of {median:.3f}"
        if math.isfinite(loss):
            self._recent.append(loss)
        return text

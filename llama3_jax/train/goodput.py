"""Goodput: where a run's wall-clock time went.

A run is paid for by the hour and only the hours spent in steps move the loss; the rest (compiling, waiting
for data, saving) has a name here, so that it can be looked at and shortened.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OTHER = "other"
"""The activity that owns the time no span claims."""


class Goodput:
    """A clock that charges every second since its construction to exactly one activity.

    The activities form a stack with "other" at the bottom; time is charged to the top, so a span's seconds
    are its own and never its children's, and the seconds of all activities add up to the total. For one
    thread.

    Args:
        clock: returns seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._stack = [OTHER]
        self._seconds = {OTHER: 0.0}
        self._charged_until = clock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Charge the time inside the `with` block to `name`, less what inner spans claim."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    @property
    def total_s(self) -> float:
        """Seconds accounted for, open spans included."""
        return sum(self.report().values())

    def report(self) -> dict[str, float]:
        """Seconds per activity, longest first, open spans included; "other" is what no span claimed."""
        self._charge()
        return dict(sorted(self._seconds.items(), key=lambda item: -item[1]))

    def table(self) -> str:
        """The report as aligned text, one activity a line with its seconds and its share, and the total
        last."""
        report = self.report()
        total_s = sum(report.values())
        rows = [*report.items(), ("total", total_s)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {seconds:>12,.1f} s  {seconds / max(total_s, 1e-9):>6.1%}" for name, seconds in rows)

    def _charge(self) -> None:
        now, name = self._clock(), self._stack[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._charged_until
        self._charged_until = now

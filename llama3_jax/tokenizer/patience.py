"""Reads that are waited for, tried again and, where they do not come back, named.

A disk or an object store fails in two ways: it says so, mostly for a moment, or it says nothing at all. The first is tried
again with growing pauses; the second cannot be ended from here, so a line tells what is being waited for.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

_LOOKS_PER_STALL = 4


class Patience:
    """Runs reads; costs them two dictionary operations each.

    Args:
        report: takes a line for each failed attempt and each stall, from any thread.
        attempts: of a read, the first included.
        first_pause_s: after a failed attempt; each further pause is twice as long.
        stall_s: seconds without an answer after which the first line tells; each further line after twice the time.
    """

    def __init__(
        self,
        report: Callable[[str], None] = _LOG.warning,
        *,
        attempts: int = 5,
        first_pause_s: float = 1.0,
        stall_s: float = 30.0,
    ):
        self.report = report
        self._attempts = attempts
        self._first_pause_s = first_pause_s
        self._stall_s = stall_s
        self._waiting: dict[int, tuple[str, float]] = {}
        self._watch: threading.Thread | None = None

    def read(self, name: str, action: Callable[[], T]) -> T:
        """What `action` returns; an OSError is taken for a passing one, except that something is not permitted.

        Raises: OSError, with `name` and the cause, when the last attempt failed; whatever else `action` raises, at once.
        """
        if self._watch is None:
            self._start_watch()
        thread, pause_s = threading.get_ident(), self._first_pause_s
        outer = self._waiting.get(thread)  # a read inside another one
        for attempt in range(1, self._attempts + 1):
            self._waiting[thread] = name, time.monotonic()
            try:
                return action()
            except PermissionError:
                raise
            except OSError as error:
                if attempt == self._attempts:
                    raise OSError(error.errno, f"{name} cannot be read, tried {attempt} times: {_cause(error)}") from error
                failed = error
            finally:
                if outer is None:
                    del self._waiting[thread]
                else:
                    self._waiting[thread] = outer
            self.report(f"{name}: {_cause(failed)}; attempt {attempt} of {self._attempts}, the next in {pause_s:g} s")
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("attempts must be 1 or more")

    def _start_watch(self) -> None:
        self._watch = threading.Thread(target=_watch, args=(weakref.ref(self),), name="stall report", daemon=True)
        self._watch.start()

    def _stalled(self, told: dict[str, float]) -> None:
        """Reports what has been waited for long enough. `told`: name -> seconds at which its next line is due."""
        now = time.monotonic()
        waits: dict[str, list[float]] = {}
        for name, since in list(self._waiting.values()):
            waits.setdefault(name, []).append(now - since)
        for name in told.keys() - waits.keys():
            del told[name]
        for name, seconds in waits.items():
            longest = max(seconds)
            due = told.get(name, self._stall_s)
            if longest < due:
                if longest < self._stall_s:
                    told.pop(name, None)  # another read by now
                continue
            told[name] = 2 * max(due, longest)
            readers = f" by {len(seconds)} threads" if len(seconds) > 1 else ""
            self.report(f"waiting for {name} for {longest:.0f} s{readers}: its disk or object store does not answer")


def _watch(patience: weakref.ref[Patience]) -> None:
    told: dict[str, float] = {}
    while (alive := patience()) is not None:
        alive._stalled(told)
        pause_s = alive._stall_s / _LOOKS_PER_STALL
        del alive
        time.sleep(pause_s)


def _cause(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__

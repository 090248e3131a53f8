"""Preemption: a run that is told to stop saves first, and says so in its exit status.

Cluster schedulers announce the end of an allocation with SIGTERM or SIGUSR1, a person with SIGINT (Ctrl-C).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

EXIT_INTERRUPTED = 75
"""Exit status EX_TEMPFAIL: stopped by a signal after saving; run the same command to continue."""


class Interrupted(KeyboardInterrupt):
    """Raised where a signal stops the program. Not an `Exception`, so that `except Exception` does not
    swallow it."""


class Preemption:
    """While entered, turns SIGINT, SIGTERM and SIGUSR1 into a request the training loop can answer after its
    step.

    Inside `deferred()` the first signal only sets `requested`; anywhere else it raises `Interrupted` at once,
    and so does every later signal, wherever it arrives. The previous handlers return on exit. Python lets
    only the main thread handle signals: entered on another thread this does nothing, `active` stays False and
    `requested` None.

    Attributes:
        requested: name of the first signal received, such as "SIGTERM"; None until then.
        active: whether the handlers are installed.
    """

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.requested: str | None = None
        self.active = False
        self._deferring = 0
        self._previous = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.signals}
            self.active = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler set from C, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        self.active = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold the first signal back as `requested`; whoever enters this must look at it."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        first = self.requested is None
        self.requested = self.requested or name
        if not (first and self._deferring):
            raise Interrupted(f"stopped by {name}")
        os.write(2, f"\n{name}: stopping after this step; once more stops at once\n".encode())

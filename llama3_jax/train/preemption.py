"""Preemption: a run that is told to stop saves first, and says so in its exit status.

Cluster schedulers announce the end of an allocation with SIGTERM or SIGUSR1, a person with SIGINT (Ctrl-C). Where such a
signal finds a run decides what comes of it:

    start-up, data, compiling a stage,      nothing can be lost: `Interrupted` is raised at once. Should the program be
    the scores and samples of the end       inside a call that is not Python's, which a signal cannot leave (compiling),
                                            or in a library that swallows it, the process is ended after `patience_s`,
                                            by a thread
    a training step, saving, the journal    `deferred()`: waits for the next window
    waiting for a batch, evaluation,        `window()`: `Interrupted` is raised as soon as the main thread is in Python;
    samples and plots between steps         who opened the region catches it and saves, so that no thread ends the process.
                                            In a job of several processes, which must save together, there are no windows:
                                            it ends after a step that all agree on (see `stopping`)
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

EXIT_INTERRUPTED = 75
"""Exit status EX_TEMPFAIL: stopped by a signal after saving; run the same command to continue."""


class Interrupted(KeyboardInterrupt):
    """Raised where a signal stops the program. Not an `Exception`, so that `except Exception` does not
    swallow it."""


class Insisted(Interrupted):
    """A person asked again, with Ctrl-C: nothing more is to be saved."""


class Preemption:
    """While entered, turns SIGINT, SIGTERM and SIGUSR1 into `Interrupted`, raised where it does no harm.

    SIGINT that follows another signal raises `Insisted`, wherever it arrives; schedulers repeat themselves, so that a
    second SIGTERM or SIGUSR1 means no more than the first. The previous handlers return on exit. Python lets only the
    main thread handle signals: entered on another thread this does nothing, and `requested` stays None.

    Args:
        patience_s: seconds that the main thread is waited for where nothing can be lost, before the process is ended for
            it; None, where a process has other things to do than this (a notebook): for ever.
    Attributes:
        requested: name of the first signal received, such as "SIGTERM"; None until then.
        saving: whether a checkpoint is being written behind the main thread's back; it is never cut off.
        last_words: what is printed when the process is ended for the main thread.
        end: prints its argument and ends the process.
        alone: whether this process may stop where it likes; one of a job's may not.
    """

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, *, patience_s: float | None = None):
        self.requested: str | None = None
        self.saving: Callable[[], bool] = lambda: False
        self.last_words: Callable[[], str] = lambda: "run the same command again to continue"
        self.end: Callable[[str], None] = _end
        self.alone = True
        self._patience_s = patience_s
        self._regions = 0
        """Of `deferred()`, around where the main thread is: within one there may be something to lose."""
        self._held = False
        """Whether the innermost of them, or of the windows in them, holds signals back."""
        self._previous = {}
        self._watch: _Watch | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.signals}
            if self._patience_s is not None:
                self._watch = _Watch(self._arrived)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler set from C, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Holds a signal back until the next `window()`, or until this region is left.

        Raises: Interrupted on leaving it, if one came.
        """
        self._deliver()
        self._regions += 1
        try:
            with self._holding(True):
                yield
        finally:
            self._regions -= 1
        self._deliver()

    @contextmanager
    def window(self) -> Iterator[None]:
        """A part of a `deferred()` region that a signal may cut off anywhere. Raises: Interrupted."""
        with self._holding(not self.alone and self._held):
            self._deliver()
            yield

    @contextmanager
    def _holding(self, held: bool) -> Iterator[None]:
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    def _deliver(self) -> None:
        if self.requested and not self._held:
            raise Interrupted(f"stopped by {self.requested}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested is None:
            self.requested = name
            self._deliver()
            os.write(2, f"\n{name}: stopping after this step; Ctrl-C stops at once\n".encode())
        elif number == signal.SIGINT:
            raise Insisted(f"stopped at once by {self.requested} and {name}")

    def _arrived(self, number: int, closed: threading.Event) -> None:
        """Called on the watching thread the moment a signal reaches the process, whatever the main thread is doing.

        `requested` is set by the main thread: while it is not, that thread has not come back to Python since. Where it is and
        the program goes on, somebody caught `Interrupted`: on leaving a region, whoever saves; elsewhere, a bare `except:`.
        """
        in_region = self._regions > 0
        closed.wait(self._patience_s)
        while not self._regions and not (in_region and self.requested) and not closed.is_set():
            if not self.saving():
                self.end(f"\nstopped by {signal.Signals(number).name}; {self.last_words()}\n")
            closed.wait(0.02)


def _end(words: str) -> None:
    show_cursor = "\033[?25h" if sys.stderr.isatty() else ""  # that a progress bar has hidden
    sys.stdout.flush()
    os.write(2, (show_cursor + words).encode())
    os._exit(EXIT_INTERRUPTED)


class _Watch:
    """A thread that is told of signals by the C code of Python's handler, which runs when Python's own cannot yet."""

    def __init__(self, arrived: Callable[[int, threading.Event], None]):
        self._arrived = arrived
        self._closed = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous)
        self._closed.set()
        os.close(self._write)  # the thread reads the end of the pipe
        self._thread.join()
        os.close(self._read)

    def _run(self) -> None:
        while byte := os.read(self._read, 1):
            if byte[0] in Preemption.signals:
                self._arrived(byte[0], self._closed)

"""Progress: how far a run is and when it will be done; a bar in a terminal, plain lines anywhere else."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol, Self, TextIO

from llama3_jax.train.journal import stage_label

Record = Mapping[str, float | str]
"""A step's record, as the journal takes it."""


class Progress:
    """Shows training steps as they finish; a context manager.

    Args:
        total_steps: the number of the run's last step.
        first_step: the first step this process runs: 1, or k + 1 after resuming from checkpoint k.
        total_tokens: tokens of the whole run; time left is then reckoned in tokens, which holds over stages
            of unlike batches, otherwise in steps.
        stream: where to write, by default standard output.
        every_s: seconds between plain lines; the first step, the first of a phase or stage, and the last are
            always shown.
        clock: returns seconds; replaced in tests.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        first_step: int,
        total_tokens: int | None = None,
        stream: TextIO | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        stream = stream or sys.stdout
        self._total_steps, self._total_tokens = total_steps, total_tokens
        self._display: _Display
        if stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            self._display = _Bar(stream, total_steps, first_step)
        else:
            self._display = _Lines(stream, total_steps, every_s, clock)
        self._time_left = TimeLeft(clock)

    def __enter__(self) -> Self:
        self._display.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._display.close()

    def step(self, step: int, record: Record) -> None:
        """Show that `step` is done."""
        if self._total_tokens is not None:
            work_left = self._total_tokens - record["tokens"]
        else:
            work_left = self._total_steps - step
        left_s = self._time_left.update(work_left, stage=stage_label(record), paused="compile_s" in record)
        left = "" if left_s is None else f"{format_duration(left_s)} left"
        self._display.step(step, record, left)

    def message(self, text: str) -> None:
        """Show a line of its own, above the bar."""
        self._display.message(text)


class TimeLeft:
    """Seconds until the work left reaches zero, from an exponentially weighted rate of work.

    The rate is a weighted sum of work over one of seconds, so that evaluations and saving count at their true
    share. A step that compiled says nothing about the rate and is left out; a new stage keeps the old rate
    only until its own first steps speak.
    """

    MEMORY = 0.98
    """What a step's weight is multiplied by with each later step: the rate follows about fifty steps."""
    MEMORY_OF_OTHER_STAGE = 0.02

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._work, self._seconds = 0.0, 0.0
        self._last: tuple[float, float, str] | None = None

    def update(self, work_left: float, *, stage: str, paused: bool) -> float | None:
        """Take in a finished step; the seconds left, or None while no rate is known."""
        now, last = self._clock(), self._last
        self._last = now, work_left, stage
        if last is not None:
            then, work_left_then, stage_then = last
            if stage != stage_then:
                self._work *= self.MEMORY_OF_OTHER_STAGE
                self._seconds *= self.MEMORY_OF_OTHER_STAGE
            if not paused:
                self._work = self._work * self.MEMORY + work_left_then - work_left
                self._seconds = self._seconds * self.MEMORY + now - then
        return max(work_left, 0) * self._seconds / self._work if self._work > 0 else None


def format_duration(seconds: float) -> str:
    """The two largest units: "42s", "2m10s", "3h05m", "2d07h"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    minutes = seconds // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"


def _measures(record: Record) -> list[str]:
    shown = {"loss": "loss {:.3f}", "tokens_per_s": "{:,.0f} tok/s", "learning_rate": "lr {:.1e}"}
    return [form.format(record[name]) for name, form in shown.items() if name in record]


class _Display(Protocol):
    def open(self) -> None: ...
    def step(self, step: int, record: Record, left: str) -> None: ...
    def message(self, text: str) -> None: ...
    def close(self) -> None: ...


class _Lines:
    """A line now and then: for log files, pipes and notebooks."""

    def __init__(self, stream: TextIO, total_steps: int, every_s: float, clock: Callable[[], float]):
        self._stream, self._total_steps, self._every_s, self._clock = stream, total_steps, every_s, clock
        self._stage, self._next_s = None, 0.0
        self._unshown = None

    def open(self) -> None:
        pass

    def step(self, step: int, record: Record, left: str) -> None:
        stage = stage_label(record)
        parts = [f"step {step}/{self._total_steps}", stage, *_measures(record), left]
        line = "  ".join(part for part in parts if part)
        if stage != self._stage or self._clock() >= self._next_s or step == self._total_steps:
            self.message(line)
            self._stage, self._next_s, self._unshown = stage, self._clock() + self._every_s, None
        else:
            self._unshown = line

    def message(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._unshown is not None:  # the last step of a run that was stopped
            self.message(self._unshown)


class _Bar:
    """A bar that stays at the bottom of a terminal."""

    def __init__(self, stream: TextIO, total_steps: int, first_step: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        def text(field: str, style: str) -> TextColumn:
            return TextColumn(f"{{task.fields[{field}]}}", style=style, markup=False)

        self._progress = RichProgress(
            text("stage", "bold"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            text("measures", "default"),
            text("left", "cyan"),
            console=Console(file=stream),
            refresh_per_second=4,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=first_step - 1, stage="", measures="", left="")

    def open(self) -> None:
        self._progress.start()

    def step(self, step: int, record: Record, left: str) -> None:
        self._progress.update(
            self._task,
            completed=step,
            stage=stage_label(record),
            measures="  ".join(_measures(record)),
            left=left,
        )

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()

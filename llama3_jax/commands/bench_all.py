"""`llama3 bench all`: several commands that measure, one after another within a time, and what they say in one dated report."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3_jax import __version__
from llama3_jax.commands.doctor import driver_version, installed_version

MEASURING = ("bench", "doctor")
PACKAGES = ("jax", "jaxlib", "flax", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
CARD = "name,driver_version,power.limit,clocks.max.sm,clocks.sm,temperature.gpu,power.draw"
"""What `nvidia-smi` is asked before each part: a card that is warm, or held back, is a slower one."""
DONE = "done"
PATIENCE_S = 5
"""For a part that is told to end."""


@dataclass(frozen=True, kw_only=True)
class Part:
    command: str
    """What follows `llama3`."""
    seconds: int
    """After which it is ended."""

    def __post_init__(self) -> None:
        words = shlex.split(self.command)
        if not words or words[0] not in MEASURING or words[:2] == ["bench", "all"]:
            raise ValueError(f"command={self.command!r} does not measure; use one of llama3 {', llama3 '.join(MEASURING)}")
        if self.seconds < 1:
            raise ValueError(f"seconds={self.seconds} of {self.command!r}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class AllBench:
    """What a YAML file of `llama3 bench all` is checked against."""

    parts: tuple[Part, ...]
    """Those that matter most first."""
    seconds: int
    """For all of them together; what is left then is left out."""
    report: Path
    """A Markdown file that this is added to while it is measured."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts needs an entry, or nothing is measured")
        if self.seconds < 1:
            raise ValueError(f"seconds={self.seconds}; use 1 or more")


def report_all(run: AllBench) -> Iterator[str]:
    """The lines that the command prints, as the parts print them; each is in the report before it is given.

    Raises: ValueError, at the end, if a part failed, was ended or was left out.
    """
    run.report.parent.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which ends the part too
    try:
        with run.report.open("a") as report:
            for line in _lines(run):
                print(line, file=report, flush=True)
                yield line
    finally:
        signal.signal(signal.SIGTERM, before)
    yield f"written: {run.report}"


def _lines(run: AllBench) -> Iterator[str]:
    started, ends = time.monotonic(), []
    yield from _machine()
    for part in run.parts:
        left = run.seconds - (time.monotonic() - started)
        yield ""
        yield f"## llama3 {part.command}"
        if card := _card():
            yield card
        yield "```"
        ends.append((yield from _run(part, min(part.seconds, left))) if left > 0 else "LEFT OUT, the time was up")
        yield "```"
    yield ""
    yield f"## {time.monotonic() - started:.0f} s of {run.seconds}"
    for part, end in zip(run.parts, ends, strict=True):
        yield f"- `llama3 {part.command}`: {end}"
    if short := sum(not end.startswith(DONE) for end in ends):
        raise ValueError(f"{short} of {len(run.parts)} parts failed, were ended or left out; see {run.report}")


def _machine() -> Iterator[str]:
    yield f"# {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
    yield f"llama3_jax {__version__}{_commit()}, Python {platform.python_version()}"
    yield f"{platform.platform()}, {os.cpu_count()} cores"
    yield ", ".join(f"{name} {version}" for name in PACKAGES if (version := installed_version(name)))
    if driver := driver_version():
        yield f"NVIDIA driver {driver}"
    yield f"command: {shlex.join(['llama3', *sys.argv[1:]])}"


def _commit() -> str:
    """Of the checkout that this runs from, if it does, and whether it was changed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "setup.py").is_file():
        return ""
    told = _said(["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"])
    return f" ({told})" if told else ""


def _card() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    return "; ".join(_said(["nvidia-smi", f"--query-gpu={CARD}", "--format=csv,noheader"]).splitlines())


def _said(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _run(part: Part, seconds: float) -> Generator[str, None, str]:
    """What it prints, and how it ended. In a process of its own: what it took of a device is free again, and it can be ended."""
    begun, late = time.monotonic(), threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "llama3_jax", *shlex.split(part.command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    ) as child:  # fmt: skip

        def end() -> None:
            late.set()
            _end(child)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            for line in child.stdout:
                yield line.rstrip("\n")
            child.wait()
        except BaseException:  # Ctrl-C, or nobody wants the rest
            _end(child)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        return f"ENDED after its {seconds:.0f} s"
    took = f"{time.monotonic() - begun:.0f} s"
    return f"{DONE} in {took}" if child.returncode == 0 else f"FAILED with exit status {child.returncode} after {took}"


def _end(child: subprocess.Popen) -> None:
    """With whatever it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(PATIENCE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue

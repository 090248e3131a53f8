"""Jobs of several processes on this machine: real processes, a few emulated devices each, joined over localhost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import yaml
from tiny_run import write_run

DEVICES = 8
"""Of every job, over all its processes."""
MESH = ("mesh.data=2", "mesh.sequence=2", "mesh.model=2")
LIMIT_S = 240


def write_short_run(directory: Path) -> Path:
    """The tiny run with one stage that is averaged too: 20 steps, one program."""
    run_file = write_run(directory)
    run = yaml.safe_load(run_file.read_text())
    stage = {"name": "short", "tokens": 1280, "sequence_length": 16, "tokens_per_step": 64, "mix": {"tales": 0.7, "lists": 0.3}}
    run["phases"] = [run["phases"][0] | {"average_every": 2, "stages": [stage]}]
    run["checkpoint"]["every_steps"] = 3
    run_file.write_text(yaml.safe_dump(run, sort_keys=False))
    return run_file


class Job:
    """`llama3 train` in `processes` processes; a context manager that leaves none behind."""

    def __init__(self, processes: int, run_file: Path, runs: Path, *more: str, own: Sequence[Sequence[str]] = (), logs: str = ""):
        """Args: more: name=... among them. own: arguments of each process alone. logs: a name for what is printed."""
        self.directory = runs / next(word.removeprefix("name=") for word in more if word.startswith("name="))
        with socket.socket() as free:
            free.bind(("localhost", 0))
            coordinator = f"localhost:{free.getsockname()[1]}"
        runs.mkdir(exist_ok=True)
        self._logs = [runs / f"{logs or self.directory.name}.{index}.txt" for index in range(processes)]
        command = [sys.executable, "-m", "llama3_jax", "train", str(run_file), "--runs", str(runs), *MESH, *more]
        self.processes = []
        for index, log in enumerate(self._logs):
            place = ["--coordinator", coordinator, "--num-processes", str(processes), "--process-id", str(index)]
            arguments = [*command, *(place if processes > 1 else []), *(own[index] if own else [])]
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(DEVICES // processes)}
            with log.open("w") as out:
                self.processes.append(subprocess.Popen(arguments, stdout=out, stderr=out, env=environment))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def wait(self, limit_s: float = LIMIT_S) -> list[int]:
        """Exit statuses; every process must end within the limit."""
        deadline = time.monotonic() + limit_s
        return [process.wait(timeout=max(deadline - time.monotonic(), 0.1)) for process in self.processes]

    def wait_for_step(self, step: int) -> None:
        self.wait_for(self.directory / "metrics.jsonl", f'"step": {step},')

    def wait_for(self, path: Path, text: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not (path.exists() and text in path.read_text()):
            assert time.monotonic() < deadline and all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.005)

    def said(self, index: int | None = None) -> str:
        """What a process printed, or all of them."""
        return "\n".join(log.read_text() for log in (self._logs if index is None else [self._logs[index]]))

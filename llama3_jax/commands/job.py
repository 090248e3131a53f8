"""A command as one process of a job: it joins before anything touches a device, and ends with all the others.

A job ends as a whole. The process that fails first says why, for all to see; the others look once a second, whatever they
are waiting for, and leave with its exit status. One that dies without a word is missed when a connection to it breaks, or by
jax after HEARTBEAT_S, and that ends the rest.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from llama3_jax.sharding import processes
from llama3_jax.train.preemption import EXIT_INTERRUPTED, Preemption

AUTO = "auto"
"""As the coordinator: jax asks the cluster (Slurm, Open MPI, TPU pods, Kubernetes)."""
HEARTBEAT_S = 30
WATCH_S = 1.0
LINGER_S = 10.0
"""How long the first process, which the others talk through, waits for them to leave before it does."""
FAILED, LEFT = "failed", "left"
VARIABLES = {
    "coordinator": "LLAMA3_COORDINATOR", "num_processes": "LLAMA3_NUM_PROCESSES", "process_id": "LLAMA3_PROCESS_ID",
}  # fmt: skip
HOW = "start every process with --coordinator HOST:PORT --num-processes N --process-id 0..N-1, or with --coordinator auto"


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process in its job; with the coordinator `auto` the rest may be None and the cluster is asked."""

    coordinator: str
    """HOST:PORT of the first process, with a port that is free there; or `auto`."""
    num_processes: int | None
    process_id: int | None
    """From 0, a different one for each process."""

    def __post_init__(self) -> None:
        if self.coordinator != AUTO and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator {self.coordinator}; write HOST:PORT of the process 0, or auto")
        given = (self.num_processes, self.process_id)
        if None in given and (self.coordinator != AUTO or given != (None, None)):
            raise ValueError(f"--num-processes {self.num_processes} --process-id {self.process_id}; {HOW}")
        if None not in given and not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"--process-id {self.process_id} of --num-processes {self.num_processes}; number the processes from 0 to "
                f"{self.num_processes - 1}"
            )


def place_of(
    coordinator: str | None, num_processes: int | None, process_id: int | None, environment: Mapping[str, str]
) -> Place | None:
    """Where this process stands in its job: as given, else as the environment says; None where neither speaks of a job.

    Raises: ValueError for what is no place in a job.
    """
    told = {name: environment[variable] for name, variable in VARIABLES.items() if environment.get(variable)}
    for name in ("num_processes", "process_id"):
        if name in told and not told[name].isdigit():
            raise ValueError(f"{VARIABLES[name]}={told[name]} is not a number of processes; {HOW}")
        told |= {name: int(told[name])} if name in told else {}
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    told |= {name: value for name, value in given.items() if value is not None}
    if not told:
        return None
    if "coordinator" not in told:
        raise ValueError(f"{', '.join(f'{name}={value}' for name, value in told.items())} without a coordinator; {HOW}")
    return Place(**dict.fromkeys(VARIABLES) | told)


@contextmanager
def job(place: Place | None, preemption: Preemption, told: Callable[[BaseException], tuple[str, int]]) -> Iterator[None]:
    """While entered, this process is one of a job's. Where an exception leaves it, the process and its job end here.

    Args:
        place: None for a process that is alone, for which this does nothing.
        preemption: entered; from now on it is the job's.
        told: an exception -> what to print of it, exit status.
    Raises: ConnectionError if the job cannot be joined.
    """
    if place is None:
        yield
        return
    _join(place)
    if not processes.is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the first one speaks for all, of libraries too
    preemption.alone, preemption.end = False, lambda words: _fail(words, EXIT_INTERRUPTED)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended,), daemon=True).start()
    try:
        yield
        processes.barrier("end of the job")
    except BaseException as error:  # noqa: BLE001 - the process ends here
        _fail(*told(error))
    ended.set()


def _join(place: Place) -> None:
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # signals are ours to answer: train.stopping
    try:
        jax.distributed.initialize(
            None if place.coordinator == AUTO else place.coordinator, place.num_processes, place.process_id,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            cluster_detection_method=None if place.coordinator == AUTO else "deactivate",
        )  # fmt: skip
    except Exception as error:
        raise ConnectionError(f"this process could not join its job ({error}); {HOW}") from error


def _watch(ended: threading.Event) -> None:
    """On a thread: leaves when another process has failed, even if the main thread waits for that one."""
    while not ended.wait(WATCH_S):
        try:
            failure = processes.posted(FAILED)
        except Exception:  # noqa: BLE001 - the first process is gone, and jax ends this one
            return
        if failure and failure["process"] != processes.index():
            _leave(failure["status"])


def _fail(message: str, status: int) -> NoReturn:
    """Says why and ends the job, or, if another process has said why it ends, goes with it."""
    mine = {"process": processes.index(), "message": message, "status": status}
    try:
        failure = processes.post(FAILED, mine)
    except Exception:  # noqa: BLE001 - the first process is gone: nobody else can say it
        failure = mine
    if failure == mine:
        print(message, file=sys.stderr)
    _leave(failure["status"])


def _leave(status: int) -> NoReturn:
    """Ends this process at once: an orderly exit would wait for processes that are stuck or gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if processes.is_first():
            deadline = time.monotonic() + LINGER_S
            while len(processes.all_posted(LEFT)) < processes.count() - 1 and time.monotonic() < deadline:
                time.sleep(WATCH_S / 10)
            time.sleep(WATCH_S / 2)  # they have said that they leave, and do so now
        else:
            processes.post(f"{LEFT}/{processes.index()}", True)
    finally:
        os._exit(status)

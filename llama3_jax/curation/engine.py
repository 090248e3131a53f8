"""Daft as the scheduler of curation: numbered pieces of work on the processes of one machine, or of a Ray cluster."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

Work = Callable[[], None]
"""What is done for one piece; pickled to the process that does it."""

_ROUNDS = 5
"""Rounds in a row that may end with lost workers before the run gives up."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where pieces of work run; the result does not depend on it."""

    runner: Literal["native", "ray"] = "native"
    """native: processes of this machine, no server. ray: a Ray cluster, whose machines share the run's file system."""
    workers: int | None = None
    """Pieces at a time; null: one for each core here, or each CPU of the cluster."""
    address: str | None = None
    """Of the Ray cluster (`HOST:PORT` or `auto`); null starts one on this machine for the run."""

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers}; use 1 or more, or null for one on each core")
        if self.address is not None and self.runner != "ray":
            raise ValueError(f"address={self.address} is of a Ray cluster, and runner is {self.runner}; set runner: ray")


_ONE_AT_A_TIME = threading.Lock()
"""Where one piece is done at a time, Daft does it on threads of this process, as many as it likes."""
_CALLS = threading.Condition()
_calling: set[int] = set()
"""Threads of Daft that are in our code: Python may not end before they are out of it."""
_LEAVE_S = 60
_RUNNER: list[str] = []
_POOLS: dict[int, ProcessPoolExecutor] = {}
"""Processes of this machine, by how many. Those of Daft end with each query, and a second goes by until others have begun and
imported what they need; these are kept."""
_IDLE_S = 30
"""After which an idle process of them ends."""


def _set_runner(name: str, set_it: Callable[..., Any]) -> None:
    """Daft has one runner in a process, once and for all. Raises: ValueError if it is another."""
    if not _RUNNER:
        set_it()
        _RUNNER.append(name)
    if _RUNNER != [name]:
        raise ValueError(f"this process runs on {_RUNNER[0]} already; start another one for runner: {name}")


def _failure_of(work: Work) -> str:
    """Does a piece, one at a time in a process; returns what went wrong, empty for nothing.

    Errors of input and disk are meant for the user; any other is ours and tells where it came from.
    """
    try:
        with _ONE_AT_A_TIME:
            work()
    except (ValueError, OSError) as error:
        return str(error)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


def _failure_in_pool(work: Work, workers: int) -> str:
    """As `_failure_of`, in another process. Raises: what loky raises for a process that died."""
    return _POOLS[workers].submit(_failure_of, work).result()


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent was killed, which can tell it nothing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _called() -> Iterator[None]:
    with _CALLS:
        _calling.add(threading.get_ident())
    try:
        yield
    finally:
        with _CALLS:
            _calling.discard(threading.get_ident())
            _CALLS.notify_all()


@contextmanager
def _calls_over() -> Iterator[None]:
    """After an error or Ctrl-C, goes on when the pieces in work are done or dead."""
    try:
        yield
    except BaseException:
        with _CALLS:
            _CALLS.wait_for(lambda: not _calling, _LEAVE_S)
        raise


@contextmanager
def _pool_of(workers: int) -> Iterator[None]:
    """Has the pool in its place; whatever goes wrong meanwhile ends its processes and what they are doing."""
    from loky import ProcessPoolExecutor

    if workers not in _POOLS:
        _POOLS[workers] = ProcessPoolExecutor(workers, timeout=_IDLE_S, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield
    except BaseException:
        _POOLS.pop(workers).shutdown(wait=False, kill_workers=True)
        raise


class PieceFailed(RuntimeError):
    """A piece of work raised; the message is its error's."""


class WorkersLost(RuntimeError):
    """Workers died again and again without finishing anything between."""


class Scheduler:
    """Runs pieces on an `Engine`; one of a process.

    Raises: ValueError, with the line that mends it, if Daft or Ray is not installed.
    """

    def __init__(self, engine: Engine):
        os.environ["DO_NOT_TRACK"] = "1"  # Daft reads it while it is imported
        os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import daft
            import loky  # noqa: F401

            if engine.runner == "ray":
                import ray
        except ModuleNotFoundError as error:
            raise ValueError(f"curation runs on {error.name}, which is missing; pip install 'llama3_jax[data]'") from error
        if engine.runner == "ray":
            if not ray.is_initialized():
                cluster = {"num_cpus": engine.workers, "include_dashboard": False} if engine.address is None else {}
                ray.init(address=engine.address, log_to_driver=False, logging_level=logging.ERROR, **cluster)
            _set_runner("ray", daft.set_runner_ray)
            self.workers = engine.workers or int(ray.cluster_resources()["CPU"])
        else:
            _set_runner("native", daft.set_runner_native)
            self.workers = engine.workers or len(os.sched_getaffinity(0))
        self.engine = engine

    def run(self, works: Mapping[int, Work], is_done: Callable[[int], bool]) -> Iterator[int]:
        """Does every piece that `is_done` does not say of already; yields each as it is finished.

        Workers that die take only their piece with them: it is done again by others.

        Args:
            works: by the number of the piece, in the order in which they are begun.
        Raises: PieceFailed if a piece raises; WorkersLost after five rounds that finished nothing.
        """
        left, fruitless = {piece: work for piece, work in works.items() if not is_done(piece)}, 0
        while left:
            lost: Exception | None = None
            told: set[int] = set()
            try:
                for piece, failure in self._round(left):
                    if failure:
                        raise PieceFailed(f"piece {piece}: {failure}")
                    told.add(piece)
                    yield piece
            except (PieceFailed, GeneratorExit):
                raise
            except Exception as error:  # of Daft or Ray: their type for a lost process depends on the runner
                lost = error
            finished = {piece for piece in left if is_done(piece)}
            yield from sorted(finished - told)
            left = {piece: work for piece, work in left.items() if piece not in finished}
            fruitless = 0 if finished else fruitless + 1
            if left and fruitless == _ROUNDS:
                raise WorkersLost(
                    f"{len(left)} pieces are left, and workers died {_ROUNDS} times without finishing any: {str(lost)[:1000]}"
                )

    def _round(self, works: Mapping[int, Work]) -> Iterator[tuple[int, str]]:
        """Each piece as it ends, and what went wrong, empty where nothing did."""
        import daft

        workers = min(self.workers, len(works))
        on_ray = self.engine.runner == "ray"
        in_pool = not on_ray and workers > 1
        # where a number is given, Daft begins as many processes; without, it calls from as many threads as there are cores
        where = {"max_concurrency": workers, "use_process": True} if on_ray else {"use_process": False}

        @daft.cls(**where)
        class Worker:
            def __init__(self, works: Any, pool: int | None):
                self.works, self.pool = works, pool

            def __call__(self, piece: int) -> str:
                with _called():
                    work = self.works[piece]
                    return _failure_of(work) if self.pool is None else _failure_in_pool(work, self.pool)

        with warnings.catch_warnings(), _calls_over(), _pool_of(self.workers) if in_pool else nullcontext():
            warnings.simplefilter("ignore")
            frame = daft.from_pydict({"piece": list(works)})
            frame = frame.into_partitions(len(works)) if on_ray else frame.into_batches(1)
            worker = Worker(works, self.workers if in_pool else None)
            for row in frame.select(frame["piece"], worker(frame["piece"]).alias("failure")).iter_rows():
                yield row["piece"], row["failure"]

"""Daft as the scheduler of curation: numbered pieces of work on the processes of one machine, or of a Ray cluster."""

from __future__ import annotations

import logging
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Work = Callable[[int], None]
"""What is done for one piece, by its number; pickled to the processes that do it."""

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
_RUNNER: list[str] = []


def _set_runner(name: str, set_it: Callable[..., Any]) -> None:
    """Daft has one runner in a process, once and for all. Raises: ValueError if it is another."""
    if not _RUNNER:
        set_it()
        _RUNNER.append(name)
    if _RUNNER != [name]:
        raise ValueError(f"this process runs on {_RUNNER[0]} already; start another one for runner: {name}")


def _failure_of(work: Work, piece: int) -> str:
    """Does a piece, one at a time in a process; returns what went wrong, empty for nothing.

    Errors of input and disk are meant for the user; any other is ours and tells where it came from.
    """
    try:
        with _ONE_AT_A_TIME:
            work(piece)
    except (ValueError, OSError) as error:
        return str(error)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


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

    def run(self, work: Work, pieces: Sequence[int], is_done: Callable[[int], bool]) -> Iterator[int]:
        """Does every piece that `is_done` does not say of already; yields each as it is finished.

        Workers that die take only their piece with them: it is done again by others.

        Args:
            pieces: in the order in which they are begun.
        Raises: PieceFailed if a piece raises; WorkersLost after five rounds that finished nothing.
        """
        left, fruitless = [piece for piece in pieces if not is_done(piece)], 0
        while left:
            lost: Exception | None = None
            told: set[int] = set()
            try:
                for piece, failure in self._round(work, left):
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
            left = [piece for piece in left if piece not in finished]
            fruitless = 0 if finished else fruitless + 1
            if left and fruitless == _ROUNDS:
                raise WorkersLost(
                    f"{len(left)} pieces are left, and workers died {_ROUNDS} times without finishing any: {str(lost)[:1000]}"
                )

    def _round(self, work: Work, pieces: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Each piece as it ends, and what went wrong, empty where nothing did."""
        import daft

        workers = min(self.workers, len(pieces))
        apart = self.engine.runner == "ray" or workers > 1  # a process costs a second to begin
        where = {"max_concurrency": workers, "use_process": True} if apart else {"use_process": False}

        @daft.cls(**where)
        class Worker:
            def __init__(self, work: Any):
                self.work = work

            def __call__(self, piece: int) -> str:
                return _failure_of(self.work, piece)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = daft.from_pydict({"piece": list(pieces)})
            frame = frame.into_partitions(len(pieces)) if self.engine.runner == "ray" else frame.into_batches(1)
            for row in frame.select(frame["piece"], Worker(work)(frame["piece"]).alias("failure")).iter_rows():
                yield row["piece"], row["failure"]

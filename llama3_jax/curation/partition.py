"""Documents on their way through the stages: partitions, each a file, their order and borders fixed by the input alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llama3_jax.curation.engine import Scheduler
from llama3_jax.curation.judge import KEPT
from llama3_jax.curation.step import Facts, Piece, Task, digest, run_step
from llama3_jax.curation.tally import total


class Partition(NamedTuple):
    """A file of documents of one source."""

    path: Path
    digest: str
    source: str
    documents: int
    bytes: int
    """Of text, UTF-8."""

    def of(self, sources: Sequence[str] | None) -> bool:
        """Whether its documents are of one of these sources; None is all."""
        return sources is None or self.source in sources


@dataclass(frozen=True)
class Context:
    """Where the stages of a run leave their files, and what runs them."""

    directory: Path
    scheduler: Scheduler
    report: Callable[[str, int, int], None]
    """Told a step, the pieces done and the pieces of it all."""

    def step(self, name: str, tasks: Sequence[Task], work: Callable[[Any, Path], Facts], settings: Any = None) -> list[Piece]:
        """As `run_step`, below the directory of the run; `name` is STAGE/STEP."""
        return run_step(
            self.directory / name, tasks, work, settings=settings, scheduler=self.scheduler,
            report=lambda done, of: self.report(name, done, of),
        )  # fmt: skip

    def over(
        self,
        name: str,
        partitions: Sequence[Partition],
        work: Callable[[Any, Path], Facts],
        settings: Any = None,
        *,
        also: Sequence[tuple[Any, str]] | None = None,
    ) -> list[Piece]:
        """A step with a piece for each partition; `work` is given (number, partition, extra).

        Args:
            also: of each partition, something else it works with, and the digest of that.
        """
        extras = also if also is not None else [(None, "")] * len(partitions)
        tasks = [
            Task(inputs=(number, partition, extra), digest=digest([partition.digest, partition.source, of_extra, number]),
                 size=partition.bytes)
            for number, (partition, (extra, of_extra)) in enumerate(zip(partitions, extras, strict=True))
        ]  # fmt: skip
        return self.step(name, tasks, work, settings)

    def one(
        self,
        name: str,
        inputs: Any,
        holding: Sequence[Piece | Partition],
        work: Callable[[Any, Path], Facts],
        settings: Any = None,
    ) -> Piece:
        """A step of a single piece, over everything that pieces and partitions hold."""
        task = Task(inputs=inputs, digest=digest([each.digest for each in holding]), size=1)
        return self.step(name, [task], work, settings)[0]


@dataclass(frozen=True)
class Outcome:
    """A finished stage."""

    stage: str
    partitions: tuple[Partition, ...]
    facts: Facts
    """Of all pieces together, as `tally` has them."""
    seconds: float = 0.0


def outcome(stage: str, before: Sequence[Partition], pieces: Sequence[Piece]) -> Outcome:
    """From the judged pieces of a stage, one for each partition before it."""
    after = tuple(
        Partition(
            piece.directory / KEPT, piece.outputs[KEPT], partition.source,
            piece.facts["kept"]["documents"], piece.facts["kept"]["bytes"],
        )
        for partition, piece in zip(before, pieces, strict=True)
    )  # fmt: skip
    return Outcome(stage, after, total(piece.facts for piece in pieces))

"""`llama3 curate`: from the input files of a run file to token shards, a data card and a report."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llama3_jax.commands.log import Log
from llama3_jax.commands.run_directory import CONFIG, RUN_DATA
from llama3_jax.config.load import Loaded, load
from llama3_jax.curation.language.labelled import labelled_texts
from llama3_jax.curation.language.train import train_language_model
from llama3_jax.curation.partition import Outcome
from llama3_jax.curation.pipeline import Curated, Curation, curate, placed
from llama3_jax.curation.report.page import data_card, write_report
from llama3_jax.curation.stages.write import as_run_data

RUNS = Path("runs")


def compose(config: str | Path, overrides: Sequence[str] = (), *, root: str | None = None) -> Loaded[Curation]:
    """The run of a run file; `root` is where relative paths begin. Raises: ConfigError with everything that is wrong."""
    return load(Curation, config, overrides, {} if root is None else {"root": (root, "--data")})


def run_curation(loaded: Loaded[Curation], runs: str | Path = RUNS) -> Curated:
    """Runs or continues a curation in its directory below `runs`.

    Stages are in `stages/`, the page in `report/`, the data card is `data_card.md`, and `data.json` tells a training run
    where the shards are.

    Raises: ValueError or OSError for inputs; PieceFailed with the traceback of what failed.
    """
    directory = Path(runs).expanduser().absolute() / loaded.value.name
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory), Log(directory) as say:
        _write(directory / CONFIG, loaded.render())
        run = placed(loaded.value, say)
        start = time.perf_counter()
        say(f"{run.name}: {len(run.sources)} sources, stages below {directory / 'stages'}")
        curated = curate(run, directory, finished=lambda outcome: say(_line(outcome)), progress=_Steps(say))
        digest = hashlib.sha256(repr(replace(run, engine=type(run.engine)())).encode()).hexdigest()
        _write(directory / "data_card.md", data_card(run, curated, digest))
        counts = {o.stage: {"facts": o.facts, "seconds": round(o.seconds, 3)} for o in curated.outcomes}
        _write(directory / "stages.json", json.dumps(counts, indent=1))
        page = write_report(run, curated, directory / "report")
        if curated.written is not None:
            _write(directory / RUN_DATA, as_run_data(curated.written))
            tokens = sum(splits["train"][2] for splits in curated.written.counts.values())
            say(f"shards: {tokens:,} training tokens of {', '.join(sorted(curated.written.counts))}")
        say(f"done in {time.perf_counter() - start:.0f} s; look at {page} and {directory / 'data_card.md'}")
        if curated.written is not None:
            say(f"train on it: llama3 train quickstart --data {directory} model.vocab_size={curated.written.vocab_size}")
    return curated


def train_languages(paths: Sequence[str], out: str | Path) -> Iterator[str]:
    """Trains a language model from labelled text; yields what to print of how well it does on what it did not see.

    Raises: ValueError, OSError: as the texts and the training do.
    """
    trained = train_language_model(labelled_texts(paths), Path(out))
    yield f"{out}: {100 * trained.accuracy:.2f}% of {trained.held_out:,} held-out texts right"
    for language, accuracy in trained.of_language.items():
        wrong = {taken: n for (of, taken), n in sorted(trained.confused.items()) if of == language}
        yield f"  {language:8} {100 * accuracy:6.2f}%" + "".join(f"  {taken} {n}" for taken, n in wrong.items())


class _Steps:
    """Says how far a step is, every ten seconds."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._last = say, time.monotonic()

    def __call__(self, step: str, done: int, of: int) -> None:
        if time.monotonic() - self._last > 10 and done < of:
            self._say(f"  {step}: {done} of {of} pieces")
            self._last = time.monotonic()


def _line(outcome: Outcome) -> str:
    facts = outcome.facts
    why = ", ".join(f"{reason} {group['documents']:,}" for reason, group in facts["rejected"].items())
    return (
        f"{outcome.stage:18} {facts['documents_in']:>11,} documents, {facts['kept']['documents']:>11,} kept, "
        f"{facts['kept']['bytes'] / 1e6:>9,.1f} MB"
        + (f", {outcome.seconds:6.1f} s" if outcome.stage != "read" else "")
        + (f"  ({why})" if why else "")
    )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another process is working in {directory}; wait for it, stop it, or choose another name=..."
            raise ValueError(message) from None
        yield


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)

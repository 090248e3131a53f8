"""`llama3 train`: from a run file to a trained model, in one run directory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from llama3_jax import __version__
from llama3_jax.commands.log import Log
from llama3_jax.commands.result import TrainResult
from llama3_jax.commands.run import TrainRun
from llama3_jax.commands.run_directory import RUN_DATA, claim, full_disk_named, saved_so_far
from llama3_jax.config.load import Loaded, load
from llama3_jax.config.render import difference
from llama3_jax.config.tree import to_mapping
from llama3_jax.curation.corpus import Corpus
from llama3_jax.sharding import processes
from llama3_jax.train.goodput import Goodput
from llama3_jax.train.preemption import Interrupted, Preemption

RUNS = "runs"


def compose(config: str | Path, overrides: Sequence[str] = (), *, data: Sequence[str | Path] = ()) -> Loaded[TrainRun]:
    """The run of a run file with dotted overrides, on the user's own documents where `data` names some.

    Each path of `data` becomes a source, and sources are mixed by size. A single path may be the directory of a curation
    run: then its shards are the data.

    Raises: ConfigError with everything that is wrong; ValueError if the run has no documents to replace.
    """
    if isinstance(overrides, str) or isinstance(data, str | Path):
        raise ValueError("overrides and data are lists; write [...] around a single one")
    if not data:
        return load(TrainRun, config, overrides)
    file = load(TrainRun, config).value
    if not isinstance(file.data, Corpus):
        raise ValueError(f"{config} reads token shards; --data needs a run file whose data is of kind: corpus")
    curated = Path(data[0]).expanduser().absolute() / RUN_DATA
    if len(data) == 1 and curated.is_file():
        extra = {"data": (json.loads(curated.read_text(encoding="utf-8")), f"--data {curated}")}
    else:
        extra = {"data.sources": (_sources([Path(path).expanduser().absolute() for path in data]), "--data")}
    for p, phase in enumerate(file.phases):
        extra |= {f"phases.{p}.stages.{s}.mix": (None, "--data") for s in range(len(phase.stages))}
    return load(TrainRun, config, overrides, extra)


def _sources(paths: Sequence[Path]) -> dict[str, dict]:
    """A source for each path, named after it. Raises: ValueError for a path that is, or lies in, another."""
    sources: dict[str, dict] = {}
    for number, path in enumerate(paths):
        for other in (*paths[:number], *paths[number + 1 :]):
            if path.resolve().is_relative_to(other.resolve()):
                raise ValueError(f"--data has {path} and {other}, which holds the same text; give each text once")
        stem = path.name.split(".")[0]
        name = "".join(c if c.isalnum() and c.isascii() or c in "_-" else "_" for c in stem) or "data"
        while name in sources:
            name += "_"
        sources[name] = {"kind": "files", "paths": [str(path)]}
    return sources


def train(
    config: str | Path, overrides: Sequence[str] = (), *, data: Sequence[str | Path] = (), runs: str | Path = RUNS
) -> TrainResult:
    """Runs or continues a run: the same as `llama3 train CONFIG [a.b=c ...] [--data PATH ...] [--runs DIR]`.

    Raises: ConfigError for the run file; ValueError or OSError for data, directory or checkpoints; Interrupted after a
    signal, when everything is saved; TrainingDiverged.
    """
    return run_training(compose(config, overrides, data=data), runs)


def run_training(loaded: Loaded[TrainRun], runs: str | Path = RUNS, *, preemption: Preemption | None = None) -> TrainResult:
    """Trains a composed run in its directory below `runs`; for the errors see `train`.

    Args: preemption: entered already, if signals are to be handled from earlier on.
    """
    if preemption is None:
        with Preemption() as preemption:
            return run_training(loaded, runs, preemption=preemption)
    loaded.value.xla.apply()
    goodput, directory = Goodput(), Path(runs).expanduser().absolute() / loaded.value.name
    preemption.last_words = lambda: saved_so_far(directory)
    _require_one_run(loaded.value, directory)
    with full_disk_named(directory), contextlib.ExitStack() as held:
        processes.once("run directory", lambda: held.enter_context(claim(directory, loaded)))
        say = held.enter_context(Log(directory))
        try:
            with goodput.span("start_up"):
                from llama3_jax.commands.pretrain import pretrain  # jax, grain, orbax: not before the config is right

            return pretrain(loaded.value, directory, say, preemption, goodput)
        except Interrupted as stop:
            said = f"{stop}; {saved_so_far(directory)}"
            say.only_file(said)
            raise Interrupted(said) from stop
        except BaseException as error:
            with contextlib.suppress(OSError):  # the error itself may be that the disk is full
                say.only_file(f"{type(error).__name__}: {error}")
            raise


def _require_one_run(run: TrainRun, directory: Path) -> None:
    """Raises: ValueError in a job whose processes were not all told the same."""
    mine = {"run directory": str(directory), "llama3_jax": __version__, "run": to_mapping(run)}
    if differs := difference(processes.of_first("run", lambda: mine), mine):
        raise ValueError("\n  ".join([f"process {processes.index()} was started otherwise than process 0:", *differs]))

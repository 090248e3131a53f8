"""The parameters that a new run begins with, where it does not draw them: those of another run, or exported ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llama3_jax.checkpoint.manifest import NAME, read_manifest, verify
from llama3_jax.checkpoint.restore import restore_part
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import CHECKPOINTS, TOKENIZER
from llama3_jax.config.render import difference
from llama3_jax.config.tree import to_mapping
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding import processes


def initial_model(init_from: str | None, tokenizer: str, say: Callable[[str], None]) -> Callable[[Transformer], Transformer]:
    """A function from fresh parameters to those that training begins with; without `init_from` they are the fresh ones.

    Args:
        init_from: a run directory or exported weights, whose newest checkpoint is taken, or one checkpoint of either.
        tokenizer: fingerprint of the run's.
    Raises: FileNotFoundError if there is no checkpoint; ValueError if it is damaged or of another tokenizer. The function
        raises ValueError listing the parameters that are missing there or of another shape.
    """
    if init_from is None:
        return lambda model: model
    path = Path(processes.of_first("init_from", lambda: str(_found(Path(init_from).expanduser()))))
    manifest = read_manifest(path)
    if manifest.meta["tokenizer"] != tokenizer:
        raise ValueError(
            f"init_from={init_from} was trained with another tokenizer than this run's, its embeddings are of other tokens; use "
            f"its own: data.tokenizer_path={path.parent.parent / TOKENIZER}"
        )

    def begin(model: Transformer) -> Transformer:
        taken_model, taken = restore_part(path, manifest, model, prefix=parameters_prefix(manifest))
        if taken.missing:
            raise ValueError(
                f"init_from={init_from} lacks parameters of this model: {', '.join(taken.missing)}; use the model section of its "
                "run"
            )
        say(f"parameters begin as those of {path}: {taken}")
        if differs := difference(manifest.meta["model"], to_mapping(model.cfg)):  # such as rope_theta: no shape shows it
            say("\n  ".join(["they were trained in a model of", *differs]))
        return taken_model

    return begin


def _found(place: Path) -> Path:
    """A checkpoint, verified."""
    if (place / NAME).is_file():
        verify(place)
        return place
    steps = sorted((path for path in (place / CHECKPOINTS).glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    if not steps:
        raise FileNotFoundError(f"init_from={place} is no checkpoint, and has none; give a run directory or exported weights")
    verify(steps[-1])
    return steps[-1]

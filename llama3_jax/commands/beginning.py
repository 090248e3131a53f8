"""The parameters that a new run begins with, where it does not draw them: those of another run, or exported ones."""

from __future__ import annotations

from collections.abc import Callable

from llama3_jax.checkpoint.manifest import NAME, Directory, read_manifest, verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.checkpoint.restore import restore_part
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import TOKENIZER, checkpoints_of
from llama3_jax.config.render import difference
from llama3_jax.config.tree import to_mapping
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding import processes
from llama3_jax.tokenizer.object_store import located


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
    path = located(processes.of_first("init_from", lambda: str(_found(located(init_from)))))
    manifest = read_manifest(path)
    if manifest.meta["tokenizer"] != tokenizer:
        raise ValueError(
            f"init_from={init_from} was trained with another tokenizer than this run's, its embeddings are of other tokens; use "
            f"its own: data.tokenizer_path={_tokenizer_of(path)}"
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


def _tokenizer_of(checkpoint: Directory) -> Directory:
    """In its run directory, or beside the checkpoints of a place of their own."""
    beside = checkpoint.parent / TOKENIZER
    return beside if beside.is_file() else checkpoint.parent.parent / TOKENIZER


def _found(given: Directory) -> Directory:
    """A checkpoint, verified."""
    if (given / NAME).is_file():
        path = given
    else:
        place = place_at(checkpoints_of(given))
        if not (steps := place.steps()):
            raise FileNotFoundError(f"init_from={given} is no checkpoint, and has none; give a run directory or exported weights")
        path = place.path(steps[-1])
    verify(path)
    return path

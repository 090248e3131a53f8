"""The parameters that a new run begins with, where it does not draw them: those of another run, or weights in any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llama3_jax.checkpoint.formats.load import load
from llama3_jax.checkpoint.manifest import NAME, Directory, read_manifest, verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.checkpoint.restore import restore_part
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import TOKENIZER, checkpoints_of
from llama3_jax.commands.weights import foreign_format, open_weights
from llama3_jax.config.render import difference
from llama3_jax.config.schema import from_mapping
from llama3_jax.config.tree import to_mapping
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding import processes
from llama3_jax.tokenizer.object_store import located


def initial_model(
    init_from: str | None, cfg: ModelConfig, tokenizer: str, say: Callable[[str], None]
) -> Callable[[Transformer], Transformer]:
    """A function from fresh parameters to those that training begins with; without `init_from` they are the fresh ones.

    Args:
        init_from: a run directory or exported weights, whose newest checkpoint is taken, one checkpoint of either, or a
            directory in Hugging Face's or Meta's format.
        cfg: of the run's first phase.
        tokenizer: fingerprint of the run's.
    Raises: FileNotFoundError if there are no weights; ValueError if they are damaged, of another tokenizer, or of a model
        that turns positions otherwise. The function raises ValueError listing the parameters that are missing there or of
        another shape.
    """
    if init_from is None:
        return lambda model: model
    if foreign_format(located(init_from)):
        return _foreign(init_from, cfg, tokenizer, say)
    path = located(processes.of_first("init_from", lambda: str(_found(located(init_from)))))
    manifest = read_manifest(path)
    _require_tokenizer(init_from, manifest.meta["tokenizer"], tokenizer, _tokenizer_of(path))
    trained = from_mapping(ModelConfig, manifest.meta["model"])
    _require_rotary(init_from, trained, cfg)

    def begin(model: Transformer) -> Transformer:
        taken_model, taken = restore_part(path, manifest, model, prefix=parameters_prefix(manifest))
        if taken.missing:
            raise ValueError(
                f"init_from={init_from} lacks parameters of this model: {', '.join(taken.missing)}; use the model section of its "
                "run"
            )
        _say(say, f"{path}: {taken}", trained, cfg)
        return taken_model

    return begin


def _foreign(
    init_from: str, cfg: ModelConfig, tokenizer: str, say: Callable[[str], None]
) -> Callable[[Transformer], Transformer]:
    opened = open_weights(init_from)
    weights = opened.weights
    _require_tokenizer(init_from, opened.tokenizer.fingerprint, tokenizer, opened.ranks)
    _require_rotary(init_from, weights.config, cfg)
    there, here = (
        to_mapping(replace(each, context_length=1, rope_scaling=None, rope_theta=2, norm_eps=1)) for each in (weights.config, cfg)
    )
    if differs := difference(there, here):
        raise ValueError(
            "\n  ".join([f"init_from={init_from} holds another model than this run's; set model.* as on the left:", *differs])
        )

    def begin(model: Transformer) -> Transformer:
        taken = load(weights, model)
        _say(say, f"{init_from} ({opened.format.value})", weights.config, cfg)
        return taken

    return begin


def _say(say: Callable[[str], None], where: str, trained: ModelConfig, cfg: ModelConfig) -> None:
    say(f"parameters begin as those of {where}")
    if differs := difference(to_mapping(trained), to_mapping(cfg)):  # such as rope_scaling: no shape shows it
        say("\n  ".join(["they were trained in a model of", *differs]))


def _require_tokenizer(init_from: str, theirs: str, ours: str, where: Directory) -> None:
    if theirs != ours:
        raise ValueError(
            f"init_from={init_from} was trained with another tokenizer than this run's, its embeddings are of other tokens; use "
            f"its own: data.tokenizer_path={where}"
        )


def _require_rotary(init_from: str, trained: ModelConfig, cfg: ModelConfig) -> None:
    """Raises: ValueError if positions would be turned otherwise than the weights know. Scaling may begin with this run."""
    names = ["rope_theta", "norm_eps", *(["rope_scaling"] if trained.rope_scaling else [])]
    there, here = ({name: to_mapping(cfg)[name] for name in names} for cfg in (trained, cfg))
    if differs := difference(there, here):
        raise ValueError(
            "\n  ".join(
                [f"init_from={init_from} was trained otherwise than this run would use it; set model.* as on the left:", *differs]
            )
        )


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
            raise FileNotFoundError(
                f"init_from={given} is no checkpoint, and has none; give a run directory, exported weights, or a directory in "
                "Hugging Face's or Meta's format"
            )
        path = place.path(steps[-1])
    verify(path)
    return path

"""Weights wherever they come from: a run directory or a checkpoint of ours, Hugging Face's or Meta's directories."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.checkpoint.formats.hugging_face import is_hugging_face, read_hugging_face
from llama3_jax.checkpoint.formats.meta import is_meta, read_meta
from llama3_jax.checkpoint.formats.weights import Weights
from llama3_jax.checkpoint.manifest import NAME, Directory, verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import TOKENIZER, checkpoints_of
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.hugging_face import TOKENIZER_JSON
from llama3_jax.tokenizer.object_store import is_url, located


class Format(enum.Enum):
    NATIVE = "native"
    HUGGING_FACE = "hugging_face"
    META = "meta"


@dataclass(frozen=True)
class Opened:
    format: Format
    weights: Weights
    tokenizer: Tokenizer
    directory: Path
    """Of the checkpoint, or the directory that was given."""
    ranks: Path
    """The file of the tokenizer."""


def foreign_format(directory: Directory) -> Format | None:
    """Whose weights a directory holds; None if they are ours, or there are none."""
    if is_url(directory) or not directory.is_dir() or (directory / NAME).is_file() or place_at(checkpoints_of(directory)).steps():
        return None
    if is_hugging_face(directory):
        return Format.HUGGING_FACE
    return Format.META if is_meta(directory) else None


def open_weights(source: str | Path, *, tokenizer: str | Path | None = None, step: int | None = None) -> Opened:
    """Weights that were found whole, with a tokenizer that fits them.

    Args:
        tokenizer: a rank file or `tokenizer.json`; None takes the one that lies with the weights.
        step: of a run directory's checkpoint; None takes the newest.
    Raises: FileNotFoundError for what is not there; ValueError for what is damaged, mixed, or of another architecture or
        vocabulary.
    """
    given = located(source)
    if is_url(given):
        raise ValueError(f"{source} lies on an object store; weights are converted from a directory here: copy it first")
    if not given.is_dir():
        raise FileNotFoundError(f"no directory at {source}; give weights at Hugging Face's, Meta's, or a run directory")
    kind = foreign_format(given)
    if kind and step is not None:
        raise ValueError(f"--step {step}: {source} holds no checkpoints of a run but weights in the format {kind.value}")
    weights: Weights
    if kind is Format.HUGGING_FACE:
        weights, directory = read_hugging_face(given), given
    elif kind is Format.META:
        weights, directory = read_meta(given), given
    else:
        from llama3_jax.checkpoint.formats.native import read_native

        directory = newest_checkpoint(given, step)
        manifest = verify(directory)
        weights = read_native(directory, manifest, parameters_prefix(manifest))
    ranks = located(tokenizer) if tokenizer else tokenizer_beside(directory)
    found = Tokenizer.load(ranks)
    require_vocabulary(found, weights, ranks)
    if kind is None and manifest.meta["tokenizer"] != found.fingerprint:
        raise ValueError(f"{directory} was trained with another tokenizer than {ranks}; give its own")
    return Opened(kind or Format.NATIVE, weights, found, directory, ranks)


def newest_checkpoint(given: Path, step: int | None) -> Path:
    """Of a run directory; or `given`, if it is one itself. Raises: FileNotFoundError."""
    if (given / NAME).is_file():
        return given
    place = place_at(checkpoints_of(given))
    steps = place.steps()
    if not steps:
        raise FileNotFoundError(
            f"{given} holds no weights: no config.json (Hugging Face), no params.json (Meta), no checkpoint of a run"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(f"{given} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return place.path(steps[-1] if step is None else step)


def tokenizer_beside(directory: Directory) -> Directory:
    """Where the tokenizer of weights lies: with them, or, of a checkpoint, in its run directory.

    Raises: FileNotFoundError naming the places.
    """
    if (directory / NAME).is_file():
        places = [directory.parent / TOKENIZER, directory.parent.parent / TOKENIZER]
    else:
        places = [directory / TOKENIZER_JSON, directory / TOKENIZER, directory / "original" / TOKENIZER]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"no tokenizer at {' or '.join(map(str, places))}; put it there, or name one with --tokenizer")


def require_vocabulary(tokenizer: Tokenizer, weights: Weights, where: str | Path) -> None:
    """Raises: ValueError if the weights are not of its ids."""
    if tokenizer.vocab_size != weights.config.vocab_size:
        raise ValueError(
            f"{weights.name} has {weights.config.vocab_size:,} vocabulary entries and {where} {tokenizer.vocab_size:,} ids (256 "
            "special ones among them): they do not belong together; give the tokenizer of these weights"
        )

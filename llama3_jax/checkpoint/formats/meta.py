"""Meta's directories: `params.json` and `consolidated.NN.pth`, one for each of the devices that share a layer's matrices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama3_jax.checkpoint.formats.files import is_made, make_file, write_rows
from llama3_jax.checkpoint.formats.pth import Archive, read_archive
from llama3_jax.checkpoint.formats.rotary import UNSCALED_CONTEXT, require_frequencies
from llama3_jax.checkpoint.formats.stored import Stored, equal
from llama3_jax.checkpoint.formats.table import ALL, Tensor, halves_to_pairs, pairs_to_halves, tensors
from llama3_jax.checkpoint.formats.weights import Weights, WithKvHeads, expected_tensors, require_shapes
from llama3_jax.config.schema import from_mapping
from llama3_jax.config.tree import to_mapping
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.tokenizer.json_file import read_object

PARAMS = "params.json"
PARAMS_LIMIT = 2**20
MORE = "llama3_jax.json"
"""What `params.json` cannot say, in directories that we wrote: positions, and how RoPE is scaled."""
SCALED_CONTEXT = 131_072
"""Positions of a model with `use_scaled_rope`, which its files do not say: those of Llama 3.1 and 3.2."""
FACTOR, TIED_FACTOR = 8.0, 32.0
"""Of the scaling, which its files do not say either: 32 for Llama 3.2 1B and 3B, the released models whose output matrix is the
embedding (their config at Hugging Face; Meta's own code turns every model by 8)."""


@dataclass(frozen=True)
class MetaWeights:
    directory: Path
    config: ModelConfig
    """With the key/value heads that are stored."""
    shards: Sequence[Mapping[str, Stored]]

    @property
    def name(self) -> str:
        return str(self.directory)

    def dtype(self, tensor: Tensor) -> np.dtype:
        return self.shards[0][tensor.meta].dtype

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        pieces = [shard[tensor.meta] for shard in self.shards]
        if tensor.weight.split is None:
            whole = pieces[0].read(rows)
            if any(not np.array_equal(whole.view(np.uint8), piece.read(rows).view(np.uint8)) for piece in pieces[1:]):
                raise ValueError(
                    f"{self.directory}: {tensor.meta} is not the same in every consolidated.*.pth: files of several models are "
                    "mixed; fetch them again"
                )
            return whole
        wanted, size = [rows, columns], pieces[0].shape[tensor.weight.split]
        parts = []
        for piece, part in _overlaps(wanted[tensor.weight.split], size, pieces):
            wanted[tensor.weight.split] = part
            parts.append(piece.read(*wanted))
        whole = np.concatenate(parts, axis=tensor.weight.split) if len(parts) > 1 else parts[0]
        return pairs_to_halves(whole, self.config.head_dim) if tensor.weight.rotary else whole


def is_meta(directory: Path) -> bool:
    """By its `params.json`, or by shards without one."""
    return (directory / PARAMS).is_file() or any(directory.glob("consolidated.*.pth"))


def read_meta(directory: Path) -> Weights:
    """The weights of a directory, every shard of which was found whole; key/value heads that are stored for several shards
    count once.

    Raises: FileNotFoundError for a missing file; ValueError naming what is not as it should be: parameters, archive, or
        tensors that are not those of the parameters.
    """
    params = read_object(directory / PARAMS, limit=PARAMS_LIMIT)
    shards = [read_archive(path) for path in _shard_paths(directory)]
    cfg = _config(directory / PARAMS, params)
    for number, shard in enumerate(shards):
        if "rope.freqs" in shard:
            plain = replace(cfg, rope_scaling=None)
            require_frequencies(shard.pop("rope.freqs"), plain, f"{directory}: rope.freqs of shard {number}", PARAMS)
    heads = max(cfg.num_kv_heads, len(shards))
    stored = replace(cfg, num_kv_heads=heads) if cfg.num_heads % heads == 0 else cfg
    names = {tensor: tensor.meta for tensor in expected_tensors(stored, len(shards[0]), str(directory), PARAMS)}
    expected = {name: _piece(tensor, stored, len(shards), directory) for tensor, name in names.items()}
    for number, shard in enumerate(shards):
        shapes = {name: held.shape for name, held in shard.items()}
        require_shapes(shapes, expected, f"{directory}/consolidated.{number:02d}.pth", PARAMS)
        different = [name for name in expected if shard[name].dtype != shards[0][name].dtype]
        if different:
            raise ValueError(
                f"{directory}: {different[0]} is {shard[different[0]].dtype} in shard {number} and "
                f"{shards[0][different[0]].dtype} in shard 0: files of several models are mixed; fetch them again"
            )
    if all(equal(shard["output.weight"], shard["tok_embeddings.weight"]) for shard in shards):
        scaling = stored.rope_scaling and replace(stored.rope_scaling, factor=TIED_FACTOR)
        stored = replace(stored, tie_embeddings=True, rope_scaling=scaling)
    if (directory / MORE).is_file():
        stored = _with_more(stored, directory / MORE)
    weights = MetaWeights(directory, stored, shards)
    return weights if heads == cfg.num_kv_heads else WithKvHeads(weights, cfg.num_kv_heads)


def params_of(cfg: ModelConfig) -> dict[str, Any]:
    """`params.json`. Raises: ValueError for an architecture that Meta's code does not have."""
    if cfg.num_heads * cfg.head_dim != cfg.model_dim:
        raise ValueError(
            f"Meta's format has heads of width model_dim / num_heads, and {cfg.num_heads} heads of {cfg.head_dim} are not "
            f"{cfg.model_dim}; convert to hugging_face"
        )
    multiplier, multiple_of = _feed_forward(cfg)
    return {
        "dim": cfg.model_dim,
        "n_layers": cfg.num_layers,
        "n_heads": cfg.num_heads,
        "n_kv_heads": cfg.num_kv_heads,
        "vocab_size": cfg.vocab_size,
        "ffn_dim_multiplier": multiplier,
        "multiple_of": multiple_of,
        "norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_theta,
        "use_scaled_rope": cfg.rope_scaling is not None,
    }


def more_of(cfg: ModelConfig) -> dict[str, Any]:
    """What `params_of` leaves out."""
    return {name: value for name, value in to_mapping(cfg).items() if name in ("context_length", "rope_scaling")}


def _with_more(cfg: ModelConfig, path: Path) -> ModelConfig:
    """Raises: ValueError for what is not of a config, or does not go with `params.json`."""
    try:
        more = from_mapping(ModelConfig, {**to_mapping(cfg), **read_object(path, limit=PARAMS_LIMIT)})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    same = replace(more, context_length=cfg.context_length, rope_scaling=cfg.rope_scaling) == cfg
    if not same or (more.rope_scaling is None) != (cfg.rope_scaling is None):
        raise ValueError(f"{path} and {PARAMS} say different things of one model; remove it, or fetch both again")
    return more


class MetaFiles:
    """Archives that are being written: each has its whole size from the beginning, and its list of files at the end."""

    def __init__(self, directory: Path, weights: Weights, num_shards: int | None):
        """Args: num_shards: None for one; key/value heads are stored for several where there are more shards than heads.
        Raises: ValueError for a number that does not divide the model, or an architecture that Meta's code does not have."""
        cfg, self._number = weights.config, num_shards or 1
        self.params = params_of(cfg)
        if self._number > cfg.num_kv_heads:
            if self._number % cfg.num_kv_heads or cfg.num_heads % self._number:
                raise ValueError(
                    f"--shards {self._number}: {cfg.num_heads} heads over {cfg.num_kv_heads} key/value heads do not divide over "
                    f"that many; use a number that divides {cfg.num_heads}"
                )
            weights = WithKvHeads(weights, self._number)
        self._head_dim, self._copies = cfg.head_dim, weights.config.num_kv_heads // cfg.num_kv_heads
        output = replace(weights.config, tie_embeddings=False)  # their code has an output matrix always
        embedding, *_ = tensors(cfg)
        same = {"output.weight": embedding} if cfg.tie_embeddings else {}
        shapes = {
            each.meta: (weights.dtype(same.get(each.meta, each)), _piece(each, output, self._number, directory))
            for each in tensors(output)
        }
        self._twice = {embedding.meta: list(same)}
        self._archive = Archive(shapes)
        self._paths = [directory / f"consolidated.{number:02d}.pth" for number in range(self._number)]

    @property
    def disk_bytes(self) -> int:
        return self._archive.size * self._number

    def begin(self) -> None:
        """Makes the files, empty."""
        for path in self._paths:
            make_file(path, self._archive.size)

    def begun(self) -> bool:
        """Whether they are there."""
        return all(is_made(path, self._archive.size) for path in self._paths)

    def write(self, tensor: Tensor, array: np.ndarray) -> list[dict[str, int]]:
        """Args: array: [outputs, inputs]. Returns: of each shard, the CRC-32 of what it got by name."""
        if "K" in tensor.weight.dims and self._copies > 1:
            heads = array.reshape(-1, self._head_dim, *array.shape[1:])
            array = np.repeat(heads, self._copies, axis=0).reshape(-1, *array.shape[1:])
        if tensor.weight.rotary:
            array = halves_to_pairs(array, self._head_dim)
        split = tensor.weight.split
        pieces = [array] * self._number if split is None else np.split(array, self._number, axis=split)
        names = [tensor.meta, *self._twice.get(tensor.meta, [])]
        return [
            {name: write_rows(path, self._archive.offset(name), piece) for name in names}
            for path, piece in zip(self._paths, pieces, strict=True)
        ]

    def finish(self, notes: Sequence[list[dict[str, int]]]) -> None:
        """Args: notes: what every `write` returned."""
        for number, path in enumerate(self._paths):
            checksums = {name: checksum for note in notes for name, checksum in note[number].items()}
            with path.open("r+b") as file:
                for offset, content in self._archive.around(checksums):
                    file.seek(offset)
                    file.write(content)


def _shard_paths(directory: Path) -> list[Path]:
    """Raises: FileNotFoundError for one that is missing; ValueError for one too many."""
    found = {path.name: path for path in directory.glob("consolidated*.pth")}
    if not found:
        raise FileNotFoundError(f"{directory} has no consolidated.00.pth; fetch the weights again")
    numbers = [int(match[1]) for name in found if (match := re.fullmatch(r"consolidated\.(\d\d)\.pth", name))]
    if len(numbers) < len(found):
        strange = sorted(name for name in found if not re.fullmatch(r"consolidated\.\d\d\.pth", name))
        raise ValueError(f"{directory / strange[0]}: shards are named consolidated.00.pth, ...01.pth and so on; move it away")
    if missing := sorted(set(range(max(numbers) + 1)) - set(numbers)):
        raise FileNotFoundError(f"{directory}/consolidated.{missing[0]:02d}.pth is missing; fetch it again")
    return [found[f"consolidated.{number:02d}.pth"] for number in sorted(numbers)]


def _config(path: Path, params: Mapping[str, Any]) -> ModelConfig:
    """Raises: ValueError for a value that is missing or not right, or for a model with more than text."""

    def number(key: str, default: Any = None, kind: Any = int) -> Any:
        value = params.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise ValueError(f"{path}: {key} is {str(value)[:60]!r}; write {'a whole number' if kind is int else 'a number'}")
        return kind(value)

    if other := [key for key in ("quantization_args", "lora_args", "vision_model", "vision_chunk_size") if params.get(key)]:
        raise ValueError(f"{path} has {other[0]}: not a model of text in bfloat16; take that release")
    scaled = params.get("use_scaled_rope", False)
    if not isinstance(scaled, bool):
        raise ValueError(f"{path}: use_scaled_rope is {str(scaled)[:60]!r}; write true or false")
    dim, heads, multiple_of = number("dim"), number("n_heads"), number("multiple_of", 256)
    if min(dim, heads, multiple_of) < 1 or dim % heads:
        raise ValueError(f"{path}: {heads} heads do not divide a width of {dim} (multiples of {multiple_of}); fetch it again")
    multiplier = number("ffn_dim_multiplier", 1.0, float)
    if not 0 < multiplier < 1000:
        raise ValueError(f"{path}: ffn_dim_multiplier is {multiplier}; fetch it again")
    try:
        return ModelConfig(
            num_layers=number("n_layers"),
            model_dim=dim,
            num_heads=heads,
            num_kv_heads=number("n_kv_heads", heads),
            head_dim=dim // heads,
            ffw_dim=_rounded(dim, multiplier, multiple_of),
            vocab_size=number("vocab_size"),
            context_length=SCALED_CONTEXT if scaled else UNSCALED_CONTEXT,
            rope_theta=number("rope_theta", 500_000.0, float),
            rope_scaling=RopeScaling(factor=FACTOR) if scaled else None,
            norm_eps=number("norm_eps", 1e-5, float),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _rounded(dim: int, multiplier: float, multiple_of: int) -> int:
    """Width of the feed-forward: 8/3 of the model's times the multiplier, up to a multiple (Meta's `FeedForward`)."""
    return -(-int(multiplier * int(8 * dim / 3)) // multiple_of) * multiple_of


def _feed_forward(cfg: ModelConfig) -> tuple[float, int]:
    """A multiplier and a multiple that give the width: those of a release where there is one."""
    for multiple_of in (4096, 1024, 256):
        for multiplier in (1.3, 1.2, 1.5, 1.0):
            if _rounded(cfg.model_dim, multiplier, multiple_of) == cfg.ffw_dim:
                return multiplier, multiple_of
    return (cfg.ffw_dim + 0.5) / int(8 * cfg.model_dim / 3), 1


def _piece(tensor: Tensor, cfg: ModelConfig, num_shards: int, directory: Path) -> tuple[int, ...]:
    """The shape that each shard has of a tensor. Raises: ValueError if it cannot be divided."""
    shape, split = list(tensor.shape(cfg)), tensor.weight.split
    if split is not None:
        unit = cfg.head_dim if {"N", "K"} & set(tensor.weight.dims) else 1
        if shape[split] // unit % num_shards:
            raise ValueError(
                f"{directory}: {tensor.meta} of shape {list(shape)} does not divide over {num_shards} shards; use a number of "
                "shards that divides heads, feed-forward width and vocabulary"
            )
        shape[split] //= num_shards
    return tuple(shape)


def _overlaps(wanted: slice, size: int, pieces: Sequence[Stored]) -> list[tuple[Stored, slice]]:
    """The pieces, `size` long and one after the other, that `wanted` touches, and which part of each."""
    start, stop, _ = wanted.indices(size * len(pieces))
    return [
        (piece, slice(max(start - first, 0), min(stop - first, size)))
        for first, piece in zip(range(0, size * len(pieces), size), pieces, strict=True)
        if first < stop and start < first + size
    ]

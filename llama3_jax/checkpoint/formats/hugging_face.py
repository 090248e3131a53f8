"""Hugging Face's directories: `config.json` and safetensors files, one or several with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama3_jax.checkpoint.formats.files import is_made, make_file, write_rows
from llama3_jax.checkpoint.formats.rotary import THETA, UNSCALED_CONTEXT, require_frequencies, require_scaling
from llama3_jax.checkpoint.formats.safetensors import header_of, read_header
from llama3_jax.checkpoint.formats.stored import Stored, equal
from llama3_jax.checkpoint.formats.table import ALL, Tensor, tensors
from llama3_jax.checkpoint.formats.weights import Weights, expected_tensors, require_shapes
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.tokenizer.json_file import read_object

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
CONFIG_LIMIT = 2**20
SHARD_BYTES = 5 * 10**9
"""Of a file, about, where their number is not given."""


@dataclass(frozen=True)
class HuggingFaceWeights:
    directory: Path
    config: ModelConfig
    found: Mapping[str, Stored]

    @property
    def name(self) -> str:
        return str(self.directory)

    def dtype(self, tensor: Tensor) -> np.dtype:
        return self.found[tensor.hugging_face].dtype

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        return self.found[tensor.hugging_face].read(rows, columns)


def is_hugging_face(directory: Path) -> bool:
    """By its `config.json`, or by weights of theirs without one."""
    return (directory / CONFIG).is_file() or (directory / INDEX).is_file() or any(directory.glob("*.safetensors"))


def read_hugging_face(directory: Path) -> HuggingFaceWeights:
    """The weights of a directory, every file of which was found whole.

    Raises: FileNotFoundError for a missing file; ValueError naming what is not as it should be: config, index, header, or
        tensors that are not those of the config.
    """
    cfg = read_config(directory / CONFIG)
    found = _files(directory)
    for name in [name for name in found if name.endswith("rotary_emb.inv_freq")]:  # early files keep what is worked out
        require_frequencies(found.pop(name), cfg, f"{directory}: {name}", CONFIG)
    if cfg.tie_embeddings and "lm_head.weight" in found:
        if not equal(found["lm_head.weight"], found["model.embed_tokens.weight"]):
            raise ValueError(
                f"{directory}: {CONFIG} ties the output matrix to the embedding, and lm_head.weight differs from it; set "
                "tie_word_embeddings to false there, or fetch the weights again"
            )
        del found["lm_head.weight"]
    names = {tensor: tensor.hugging_face for tensor in expected_tensors(cfg, len(found), str(directory), CONFIG)}
    expected = {name: tensor.shape(cfg) for tensor, name in names.items()}
    require_shapes({name: stored.shape for name, stored in found.items()}, expected, str(directory), CONFIG)
    return HuggingFaceWeights(directory, cfg, found)


def read_config(path: Path) -> ModelConfig:
    """Raises: FileNotFoundError; ValueError for what is no Llama 3, or a value that is missing or not right."""
    fields = read_object(path, limit=CONFIG_LIMIT)

    def refuse(what: str, remedy: str) -> ValueError:
        return ValueError(f"{path}: {what}; {remedy}")

    if fields.get("model_type") != "llama":
        raise refuse(f"model_type is {_short(fields.get('model_type'))}", "give a directory of a text model of type llama")
    for key, right in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False), ("partial_rotary_factor", 1)):
        if fields.get(key, right) not in (right, None):
            raise refuse(f"{key} is {_short(fields[key])}", f"a Llama 3 has {json.dumps(right)}")
    if fields.get("quantization_config") is not None:
        raise refuse("the weights are quantized (quantization_config)", "take the release in bfloat16")

    def number(key: str, kind: type = int) -> Any:
        value = fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise refuse(f"{key} is {_short(value)}", f"write {'a whole number' if kind is int else 'a number'}")
        return kind(value)

    heads = number("num_attention_heads")
    theta, scaling = _rotary(fields, refuse)
    try:
        cfg = ModelConfig(
            num_layers=number("num_hidden_layers"),
            model_dim=number("hidden_size"),
            num_heads=heads,
            num_kv_heads=heads if fields.get("num_key_value_heads") is None else number("num_key_value_heads"),
            head_dim=number("hidden_size") // max(1, heads) if fields.get("head_dim") is None else number("head_dim"),
            ffw_dim=number("intermediate_size"),
            vocab_size=number("vocab_size"),
            context_length=number("max_position_embeddings"),
            tie_embeddings=fields.get("tie_word_embeddings", False) is True,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=number("rms_norm_eps", float),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    require_scaling(cfg, str(path), "rope_scaling")
    return cfg


def config_of(cfg: ModelConfig, dtype: str, special: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json`, in the form that every version of transformers and vLLM reads. Args: special: ids of special tokens."""
    scaling = cfg.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": cfg.model_dim,
        "intermediate_size": cfg.ffw_dim,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": positions(cfg),
        "rope_theta": cfg.rope_theta,
        "rope_scaling": None
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        },
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        **special,
    }


def positions(cfg: ModelConfig) -> int:
    """That the model is meant for: as its config says, unless that is of the time before RoPE was scaled, or after it.

    Without scaling a config that has room for later, longer phases gives no more positions than the released weights had.
    """
    scaling = cfg.rope_scaling
    if scaling is None:
        return min(cfg.context_length, UNSCALED_CONTEXT) if cfg.rope_theta == THETA else cfg.context_length
    return cfg.context_length if cfg.context_length > scaling.original_context_length else cfg.longest_sequence


class HuggingFaceFiles:
    """Safetensors files that are being written: each has its whole size and its header from the beginning."""

    def __init__(self, directory: Path, weights: Weights, num_files: int | None):
        """Args: num_files: None for as many as keep each at about `SHARD_BYTES`. Raises: ValueError for more than tensors."""
        cfg, written = weights.config, list(tensors(weights.config))
        shapes = {each.hugging_face: (weights.dtype(each), each.shape(cfg)) for each in written}
        self.num_bytes = sum(_bytes(shape) for shape in shapes.values())
        number = num_files or -(-self.num_bytes // SHARD_BYTES)
        if number > len(shapes):
            raise ValueError(f"--shards {number}: the model has {len(shapes)} tensors; use {len(shapes)} or fewer")
        self._directory = directory
        self._files = {}
        self._place: dict[str, tuple[Path, int]] = {}
        for name, inside in _named(_divided(shapes, number)).items():
            header, offsets, size = header_of({each: shapes[each] for each in inside})
            self._files[name] = (header, size)
            self._place |= {each: (directory / name, offset) for each, offset in offsets.items()}

    @property
    def disk_bytes(self) -> int:
        return sum(size for _, size in self._files.values())

    def begin(self) -> None:
        """Makes the files, empty but for their headers."""
        for name, (header, size) in self._files.items():
            make_file(self._directory / name, size, header)

    def begun(self) -> bool:
        """Whether they are there."""
        return all(is_made(self._directory / name, size) for name, (_, size) in self._files.items())

    def write(self, tensor: Tensor, array: np.ndarray) -> None:
        """Args: array: [outputs, inputs]."""
        path, offset = self._place[tensor.hugging_face]
        write_rows(path, offset, array)

    def finish(self, notes: Sequence[None]) -> None:
        if len(self._files) > 1:
            index = {
                "metadata": {"total_size": self.num_bytes},
                "weight_map": {name: path.name for name, (path, _) in sorted(self._place.items())},
            }
            (self._directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _files(directory: Path) -> dict[str, Stored]:
    """Tensors of all files of a directory. Raises: as `read_hugging_face`."""
    if (directory / INDEX).is_file():
        return _indexed(directory)
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if others := sorted(path.name for path in directory.glob("*.safetensors")):
        raise FileNotFoundError(f"{directory / INDEX} is missing, which says what {others[0]} and the like hold; fetch it again")
    pickles = "; its *.bin files are pickles, which are not read: take safetensors" if any(directory.glob("*.bin")) else ""
    raise FileNotFoundError(f"{directory} has no {SINGLE} and no {INDEX}{pickles}; fetch the weights again")


def _indexed(directory: Path) -> dict[str, Stored]:
    path = directory / INDEX
    index = read_object(path, limit=2**24)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path} has no weight_map from tensors to files; fetch it again")
    for name in sorted(set(places.values())):
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\0" in name or len(name) > 255:
            raise ValueError(f"{path} names the file {name[:100]!r}; weights lie in .safetensors files beside it; fetch it again")
    headers = {name: read_header(directory / name) for name in sorted(set(places.values()))}
    for name, header in headers.items():
        if strange := [tensor for tensor in header if places.get(tensor) != name]:
            raise ValueError(
                f"{directory / name} holds {strange[0][:100]}, which {INDEX} does not say: files of several models are mixed; "
                "fetch them again"
            )
    found = {}
    for tensor, name in places.items():
        if tensor not in headers[name]:
            raise ValueError(
                f"{directory / name} lacks {tensor[:100]}, which {INDEX} says it holds: files of several models are mixed; "
                "fetch them again"
            )
        found[tensor] = headers[name][tensor]
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(each.num_bytes for each in found.values())
    if total is not None and total != held:
        raise ValueError(f"{path} says total_size {_short(total)} and its files hold {held} bytes of tensors; fetch them again")
    return found


def _rotary(fields: Mapping[str, Any], refuse: Any) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, in the form of transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`)."""
    key = "rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling"
    rope = fields.get(key)
    if rope is not None and not isinstance(rope, dict):
        raise refuse(f"{key} is {_short(rope)}", "write an object, or null")
    rope = rope or {}

    def number(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise refuse(f"{name} is {_short(value)}", "write a number")
        return value

    theta = number("rope_theta", rope.get("rope_theta", fields.get("rope_theta")))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise refuse(f"{key} is of type {_short(kind)}", "a Llama 3 has llama3 or none")

    def part(name: str) -> float:
        return number(f"{key}.{name}", rope.get(name))

    original = part("original_max_position_embeddings")
    if original != int(original):
        raise refuse(f"{key}.original_max_position_embeddings is {original}", "write a whole number")
    try:
        return float(theta), RopeScaling(
            factor=float(part("factor")), low_freq_factor=float(part("low_freq_factor")),
            high_freq_factor=float(part("high_freq_factor")), original_context_length=int(original),
        )  # fmt: skip
    except ValueError as error:
        raise refuse(f"{key}: {error}", "take the config of the release") from None


def _divided(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]], number: int) -> list[list[str]]:
    """Names in their order, cut into `number` files of about the same size."""
    left, files = sum(map(_bytes, shapes.values())), [[]]
    names, room = list(shapes), left / number
    for position, name in enumerate(names):
        after = number - len(files)
        if files[-1] and after and (room < _bytes(shapes[name]) / 2 or len(names) - position <= after):
            files.append([])
            room = left / after
        files[-1].append(name)
        room, left = room - _bytes(shapes[name]), left - _bytes(shapes[name])
    return files


def _named(files: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    if len(files) == 1:
        return {SINGLE: files[0]}
    return {f"model-{number:05d}-of-{len(files):05d}.safetensors": names for number, names in enumerate(files, 1)}


def _bytes(described: tuple[np.dtype, tuple[int, ...]]) -> int:
    dtype, shape = described
    return math.prod(shape) * dtype.itemsize


def _short(value: Any) -> str:
    """A value of a file, for a message."""
    return json.dumps(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"

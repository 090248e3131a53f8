"""Our own checkpoints, read and written one layer at a time: Orbax's arrays, through the TensorStore below them.

Orbax reads and writes whole arrays, and ours hold all layers of a weight: 220 GB of the 405B's feed-forward. So it is Orbax that
lays the checkpoint out, and here its arrays are opened and filled in pieces; it restores them as its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from llama3_jax.checkpoint.formats.stored import DTYPES
from llama3_jax.checkpoint.formats.table import ALL, WEIGHTS, Tensor, Weight, tensors
from llama3_jax.checkpoint.formats.weights import Weights, require_shapes
from llama3_jax.checkpoint.manifest import ARRAYS, FORMAT_VERSION, Manifest, hash_files
from llama3_jax.config.schema import from_mapping
from llama3_jax.model.config import ModelConfig

CHUNK_BYTES = 2**26
"""Of an array that is stored in one piece."""
PARAMETERS = "state.model."


@dataclass(frozen=True)
class NativeWeights:
    path: Path
    """A checkpoint, verified."""
    config: ModelConfig
    manifest: Manifest
    prefix: str
    """Of the parameters that are wanted."""

    @property
    def name(self) -> str:
        return str(self.path)

    def dtype(self, tensor: Tensor) -> np.dtype:
        return DTYPES[self.manifest.arrays[self.prefix + tensor.weight.ours][0]]

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        array = self._arrays[tensor.weight]
        ours = np.asarray((array if tensor.layer is None else array[tensor.layer]).read().result())
        return tensor.to_theirs(ours)[(rows, columns)[: len(tensor.shape(self.config))]]

    @cached_property
    def _arrays(self) -> dict[Weight, Any]:
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
        return {
            weight: tensorstore.open(_spec(self.path / ARRAYS, self.prefix + weight.ours), open=True, context=context).result()
            for weight in {tensor.weight for tensor in tensors(self.config)}
        }


def read_native(path: Path, manifest: Manifest, prefix: str) -> NativeWeights:
    """Args: path, manifest: of a verified checkpoint; prefix: of the parameters in it. Raises: ValueError if they are not
    those of the model that its manifest describes."""
    cfg = from_mapping(ModelConfig, manifest.meta["model"])
    found = {name: (dtype, tuple(shape)) for name, (dtype, shape) in manifest.arrays.items() if name.startswith(prefix)}
    expected = {prefix + weight.ours: shape for weight, shape in our_shapes(cfg).items()}
    require_shapes({name: shape for name, (_, shape) in found.items()}, expected, str(path), "manifest")
    if strange := [f"{name} is {dtype}" for name, (dtype, _) in found.items() if dtype not in DTYPES]:
        raise ValueError(f"{path}: {strange[0]}; weights are converted from {', '.join(DTYPES)}")
    return NativeWeights(path, cfg, manifest, prefix)


def our_shapes(cfg: ModelConfig) -> dict[Weight, tuple[int, ...]]:
    """Of the arrays of a model, all layers in one."""
    return {
        weight: ((cfg.num_layers,) if weight.layered else ()) + Tensor(weight, 0).our_shape(cfg)
        for weight in WEIGHTS
        if weight.ours != "head" or not cfg.tie_embeddings
    }


class NativeFiles:
    """A checkpoint of parameters alone that is being written."""

    def __init__(self, path: Path, weights: Weights, meta: Mapping[str, Any]):
        """Raises: ValueError if a weight is not of one dtype in all layers."""
        self._path, self._config, self._meta = path, weights.config, dict(meta)
        self._dtypes: dict[Weight, np.dtype] = {}
        for tensor in tensors(weights.config):
            dtype = self._dtypes.setdefault(tensor.weight, weights.dtype(tensor))
            if weights.dtype(tensor) != dtype:
                raise ValueError(
                    f"{weights.name}: {tensor.hugging_face} is {weights.dtype(tensor)}, and {dtype} in layers before; name one "
                    "with --dtype"
                )
        self._shapes = our_shapes(weights.config)

    @property
    def disk_bytes(self) -> int:
        return sum(math.prod(shape) * self._dtypes[weight].itemsize for weight, shape in self._shapes.items())

    def begin(self) -> None:
        """Lays out a checkpoint of arrays that have no numbers yet."""
        writer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        names = {PARAMETERS + weight.ours: np.zeros(1, np.float32) for weight in self._shapes}
        writer.save((self._path / ARRAYS).absolute(), args=ocp.args.PyTreeSave(names), force=True)
        writer.close()
        for weight, shape in self._shapes.items():
            tensorstore.open(
                {**_spec(self._path / ARRAYS, PARAMETERS + weight.ours), "metadata": {"compressor": None}},
                create=True, delete_existing=True, dtype=tensorstore.dtype(self._dtypes[weight].name), shape=shape,
                chunk_layout=tensorstore.ChunkLayout(chunk_shape=_chunk(weight, shape, self._dtypes[weight].itemsize)),
            ).result()  # fmt: skip

    def begun(self) -> bool:
        """Whether it is laid out."""
        try:
            return self._arrays is not None
        except ValueError:
            return False

    def write(self, tensor: Tensor, array: np.ndarray) -> None:
        """Args: array: [outputs, inputs]."""
        ours = tensor.to_ours(array, tensor.our_shape(self._config))
        target = self._arrays[tensor.weight]
        target = target if tensor.layer is None else target[tensor.layer]
        rows = _rows(ours.shape, ours.itemsize)
        for row in range(0, len(ours), rows):
            piece = ours[row : row + rows]
            target[row : row + len(piece)].write(piece).result()

    def finish(self, notes: Sequence[None]) -> None:
        arrays = {PARAMETERS + weight.ours: [self._dtypes[weight].name, list(shape)] for weight, shape in self._shapes.items()}
        files = hash_files(self._path)
        Manifest(format_version=FORMAT_VERSION, step=0, arrays=arrays, meta=self._meta, files=files).write(self._path)

    @cached_property
    def _arrays(self) -> dict[Weight, Any]:
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
        return {
            weight: tensorstore.open(
                _spec(self._path / ARRAYS, PARAMETERS + weight.ours), open=True, context=context, shape=shape,
                dtype=tensorstore.dtype(self._dtypes[weight].name),
            ).result()  # fmt: skip
            for weight, shape in self._shapes.items()
        }


def _spec(arrays: Path, name: str) -> dict[str, Any]:
    """Of an array, as Orbax stores it."""
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{arrays.absolute()}/", "path": f"{name}/"}}


def _chunk(weight: Weight, shape: tuple[int, ...], itemsize: int) -> list[int]:
    """One layer, or the part of it that keeps a piece small."""
    layer, inside = ([1], shape[1:]) if weight.layered else ([], shape)
    return [*layer, min(inside[0], _rows(inside, itemsize)), *inside[1:]]


def _rows(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, CHUNK_BYTES // (math.prod(shape[1:]) * itemsize))

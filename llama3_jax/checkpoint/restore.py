"""Arrays of a verified checkpoint, onto any tree of ours: another mesh, another dtype, or a part of it, where asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from llama3_jax.checkpoint.manifest import ARRAYS, Manifest
from llama3_jax.checkpoint.tree import flatten, unflatten


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a partial restore did, by the names of leaves in the checkpoint."""

    restored: tuple[str, ...]
    missing: tuple[str, ...]
    """Not in the checkpoint: they keep their values."""
    surplus: tuple[str, ...]
    """Only in the checkpoint: not read."""
    cast: tuple[str, ...]
    """`name: float32 -> bfloat16`, of those restored."""

    def __str__(self) -> str:
        parts = (("missing", self.missing), ("surplus", self.surplus), ("converted", self.cast))
        return f"{len(self.restored)} arrays taken" + "".join(f"; {what}: {', '.join(names)}" for what, names in parts if names)


def restore(path: Path, manifest: Manifest, like: Any, *, prefix: str = "") -> Any:
    """The arrays of a verified checkpoint in the structure of `like`, bit for bit.

    Args:
        like: a tree of `jax.ShapeDtypeStruct` with the shardings wanted; need not be those it was saved with.
        prefix: where `like` stands in the saved tree, e.g. `model.`; the rest of the checkpoint is not read.
    Raises: ValueError listing the leaves that are missing, surplus or of another shape or dtype.
    """
    wanted, stored = _named(like, prefix), _stored(manifest, prefix)
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - stored)]
    wrong += [f"{name} is not expected" for name in sorted(stored - wanted.keys())]
    for name in sorted(stored & wanted.keys()):
        dtype, shape = manifest.arrays[name]
        if (dtype, tuple(shape)) != (str(wanted[name].dtype), wanted[name].shape):
            wrong.append(f"{name} is {dtype}{shape}, expected {wanted[name].dtype}{list(wanted[name].shape)}")
    if wrong:
        raise ValueError(f"{path} does not fit this model: " + "; ".join(wrong))
    return _unnamed(like, _read(path, wanted), prefix)


def restore_part(path: Path, manifest: Manifest, tree: Any, *, prefix: str = "") -> tuple[Any, Taken]:
    """`tree` with the arrays that a verified checkpoint has of it: its weights alone, or the base below new adapters.

    Args:
        tree: arrays, on their devices; one that the checkpoint has not keeps its value, one that it has is replaced,
            converted to the dtype it has here.
        prefix: where `tree` stands in the saved tree.
    Returns: the tree, and what was taken, missing, surplus and converted.
    Raises: ValueError listing the leaves of another shape, or if the checkpoint has none of them.
    """
    wanted, stored = _named(tree, prefix), _stored(manifest, prefix)
    common = {name: leaf for name, leaf in wanted.items() if name in stored}
    wrong = [
        f"{name} is {list(manifest.arrays[name][1])}, expected {list(leaf.shape)}"
        for name, leaf in common.items()
        if tuple(manifest.arrays[name][1]) != leaf.shape
    ]
    if wrong or not common:
        raise ValueError(f"{path} does not fit this model: " + ("; ".join(wrong) or f"it has no array named {prefix}..."))
    taken = Taken(
        restored=tuple(sorted(common)),
        missing=tuple(sorted(wanted.keys() - stored)),
        surplus=tuple(sorted(manifest.arrays.keys() - wanted.keys())),
        cast=tuple(
            f"{name}: {manifest.arrays[name][0]} -> {leaf.dtype}"
            for name, leaf in sorted(common.items())
            if manifest.arrays[name][0] != str(leaf.dtype)
        ),
    )
    return _unnamed(tree, {**wanted, **_read(path, common)}, prefix), taken


def read_array(path: Path, name: str) -> Any:
    """One array of a verified checkpoint, as numpy."""
    return _restore(path, {name: 0}, {name: ocp.RestoreArgs(restore_type=np.ndarray)})[name]


def _named(tree: Any, prefix: str) -> dict[str, Any]:
    return {prefix + name: leaf for name, leaf in flatten(tree).items()}


def _unnamed(like: Any, named: dict[str, Any], prefix: str) -> Any:
    return unflatten(like, {name.removeprefix(prefix): leaf for name, leaf in named.items()})


def _stored(manifest: Manifest, prefix: str) -> set[str]:
    return {name for name in manifest.arrays if name.startswith(prefix)}


def _read(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Each leaf with the dtype and the sharding of the one in `wanted`."""
    return _restore(path, wanted, ocp.checkpoint_utils.construct_restore_args(wanted))


def _restore(path: Path, item: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        return reader.restore(path / ARRAYS, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True))
    finally:
        reader.close()

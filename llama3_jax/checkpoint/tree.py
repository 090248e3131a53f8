"""Trees as flat dictionaries of dotted names: what is stored does not depend on the classes that held it."""

from __future__ import annotations

from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by dotted path, e.g. `model.blocks.attention.w_q`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name_of(path): leaf for path, leaf in leaves}


def unflatten(like: Any, named: dict[str, Any]) -> Any:
    """A tree of the structure of `like` with leaves from `named`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [named[name_of(path)] for path, _ in paths])


def name_of(path: tuple) -> str:
    """The dotted name of a leaf; a parameter's inner `value` is not part of it."""
    keys = jax.tree_util.keystr(path, simple=True, separator=".")
    return keys.removesuffix(".value")

"""A parsed document: plain values, each with the place it came from."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import TypeAlias

Scalar: TypeAlias = None | bool | int | float | str


@dataclass(frozen=True)
class Node:
    value: Scalar | list[Node] | dict[str, Node]
    origin: str


def join(key: str, part: str | int) -> str:
    """The dotted key of a child."""
    return f"{key}.{part}" if key else str(part)


def to_mapping(value: object) -> object:
    """A configuration as plain YAML values: dataclasses as mappings, tuples as lists, enums by value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): to_mapping(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    if isinstance(value, enum.Enum):
        return to_mapping(value.value)
    return str(value) if isinstance(value, PurePath) else value


def to_node(value: object, origin: str) -> Node:
    """Plain values (or a configuration) as a tree that came whole from one place."""
    plain = to_mapping(value)
    if isinstance(plain, dict):
        return Node({key: to_node(item, origin) for key, item in plain.items()}, origin)
    if isinstance(plain, list):
        return Node([to_node(item, origin) for item in plain], origin)
    return Node(plain, origin)


def children(node: Node) -> Iterator[tuple[str | int, Node]]:
    if isinstance(node.value, dict):
        yield from node.value.items()
    elif isinstance(node.value, list):
        yield from enumerate(node.value)


def origins(node: Node, key: str = "") -> dict[str, str]:
    """Dotted key to origin, for every value and every container below `node`."""
    found: dict[str, str] = {}
    for part, child in children(node):
        found |= {join(key, part): child.origin} | origins(child, join(key, part))
    return found


def annotate(complete: object, given: Node | None) -> Node:
    """`complete` (plain values) with the origins of `given`, and `default` for whatever was not given."""
    origin = given.origin if given else "default"
    below = dict(children(given)) if given else {}
    if isinstance(complete, dict):
        return Node({key: annotate(item, below.get(key)) for key, item in complete.items()}, origin)
    if isinstance(complete, list):
        return Node([annotate(item, below.get(i)) for i, item in enumerate(complete)], origin)
    return Node(complete, origin)

"""A `Node` tree to frozen dataclasses, by their annotations.

Understood: int, float, bool, str, Path, None, Literal, Enum (by value), tuple[X, ...] and tuple[X, Y],
Mapping[str, X], dataclasses, and unions of these. Several dataclasses in one union are told apart by a field
`kind: Literal["name"]`. A key that is not written keeps its default, also inside a dataclass that is itself a
default.
"""

import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from llama3_jax.config.errors import ConfigError, Problem, nearest
from llama3_jax.config.render import flow
from llama3_jax.config.tree import Node, join, to_node

T = TypeVar("T")

_INVALID: Any = object()
"""Stands for a value whose problem is already recorded."""
_EXACT_IN_FLOAT = 2**53
"""Whole floats up to here are exact; a larger one may not be the number that was meant."""
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def build(cls: type[T], root: Node) -> T:
    """An instance of the dataclass `cls`.

    Raises: ConfigError with every problem of the tree.
    """
    problems: list[Problem] = []
    value = _Builder(problems).convert(cls, root, "", MISSING)
    if problems:
        raise ConfigError(problems)
    return value


def from_mapping(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """The inverse of `to_mapping`: an instance of `cls` from plain nested values.

    Raises: ConfigError with every problem of the mapping.
    """
    return build(cls, to_node(mapping, "mapping"))


@dataclass(frozen=True)
class _Builder:
    problems: list[Problem]

    def convert(self, kind: Any, node: Node, key: str, default: Any) -> Any:
        """`node` as a `kind`, or `_INVALID` with the problems recorded.

        Args:
            default: what the surrounding configuration would hold here, or MISSING.
        """
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if is_dataclass(kind):
            return self._dataclass(kind, node, key, default)
        if origin in (Union, types.UnionType):
            return self._union(arguments, node, key, default)
        if origin is tuple:
            return self._tuple(kind, arguments, node, key)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(kind, arguments[1], node, key)
        value = _scalar(kind, node.value)
        return self._refuse(node, key, kind) if value is _INVALID else value

    def _dataclass(self, cls: type, node: Node, key: str, default: Any) -> Any:
        if not isinstance(node.value, dict):
            return self._refuse(node, key, cls)
        known = {field.name: field for field in fields(cls) if field.init}
        for name in (name for name in node.value if name not in known):
            message = f"unknown key{nearest(name, known) or '.'} The keys are {', '.join(known)}"
            self._problem(node.value[name].origin, join(key, name), message)
        found, hints = {}, _hints(cls)
        for name, field in known.items():
            below = getattr(default, name) if type(default) is cls else _default(field)
            if name in node.value:
                found[name] = self.convert(hints[name], node.value[name], join(key, name), below)
            elif below is not MISSING:
                found[name] = below
            else:
                message = f"missing; give {expected(hints[name])}"
                found[name] = self._problem(node.origin, join(key, name), message)
        if any(value is _INVALID for value in found.values()):
            return _INVALID
        try:
            return cls(**found)
        except ValueError as error:
            return self._problem(node.origin, key, str(error))

    def _union(self, members: tuple[Any, ...], node: Node, key: str, default: Any) -> Any:
        if node.value is None and types.NoneType in members:
            return None
        members = tuple(member for member in members if member is not types.NoneType)
        fitting = [member for member in members if _container(member) is type(node.value)]
        if len(members) == 1 or len(fitting) == 1:
            return self.convert((fitting or members)[0], node, key, default)
        if fitting and all(is_dataclass(member) for member in fitting):
            return self._tagged({_kind(cls): cls for cls in fitting}, node, key, default)
        for member in sorted(members, key=lambda member: member is not type(node.value)):
            attempt = _Builder([])
            value = attempt.convert(member, node, key, default)
            if not attempt.problems:
                return value
        return self._refuse(node, key, Union[members])  # noqa: UP007 (members are known only here)

    def _tagged(self, classes: dict[str, type], node: Node, key: str, default: Any) -> Any:
        assert isinstance(node.value, dict)
        choices = ", ".join(classes)
        if "kind" in node.value:
            given = node.value["kind"]
            if isinstance(given.value, str) and given.value in classes:
                return self._dataclass(classes[given.value], node, key, default)
            message = f"is {describe(given)}; the kinds are {choices}{nearest(str(given.value), classes)}"
            return self._problem(given.origin, join(key, "kind"), message)
        if type(default) in classes.values():
            return self._dataclass(type(default), node, key, default)
        return self._problem(node.origin, join(key, "kind"), f"missing; the kinds are {choices}")

    def _tuple(self, kind: Any, arguments: tuple[Any, ...], node: Node, key: str) -> Any:
        if not isinstance(node.value, list):
            return self._refuse(node, key, kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = arguments[:1] * len(node.value)
        if len(arguments) != len(node.value):
            return self._refuse(node, key, kind)
        pairs = enumerate(zip(arguments, node.value, strict=True))
        items = [self.convert(argument, item, join(key, i), MISSING) for i, (argument, item) in pairs]
        return _INVALID if any(item is _INVALID for item in items) else tuple(items)

    def _mapping(self, kind: Any, argument: Any, node: Node, key: str) -> Any:
        if not isinstance(node.value, dict):
            return self._refuse(node, key, kind)
        pairs = node.value.items()
        items = {name: self.convert(argument, item, join(key, name), MISSING) for name, item in pairs}
        return _INVALID if any(item is _INVALID for item in items.values()) else items

    def _refuse(self, node: Node, key: str, kind: Any) -> Any:
        near = nearest(node.value, map(str, _choices(kind))) if isinstance(node.value, str) else ""
        hint = "; put it in quotes" if kind is str and isinstance(node.value, (bool, int, float)) else ""
        return self._problem(node.origin, key, f"is {describe(node)}; give {expected(kind)}{near}{hint}")

    def _problem(self, origin: str, key: str, message: str) -> Any:
        self.problems.append(Problem(origin, key, message))
        return _INVALID


def expected(kind: Any) -> str:
    """What to write for a `kind`, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member) for member in arguments)
    if origin is tuple:
        return "a list" if Ellipsis in arguments else f"a list of {len(arguments)}"
    if is_dataclass(kind):
        return f"a mapping with keys {', '.join(field.name for field in fields(kind) if field.init)}"
    if _choices(kind):
        return f"one of {', '.join(map(repr, _choices(kind)))}"
    return "null" if kind is types.NoneType else _WORDS.get(kind, "a mapping")


def describe(node: Node) -> str:
    """What was written, in a few words."""
    if isinstance(node.value, dict):
        return f"a mapping with keys {', '.join(node.value)}"[:80] if node.value else "an empty mapping"
    if isinstance(node.value, list):
        return f"a list of {len(node.value)}"
    return repr(node.value)[:80] if isinstance(node.value, str) else flow(node.value)


def _scalar(kind: Any, value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return _INVALID
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next((member for member in kind if _same(member.value, value)), _INVALID)
    if typing.get_origin(kind) is Literal:
        return next((choice for choice in typing.get_args(kind) if _same(choice, value)), _INVALID)
    if kind is int or kind is float:
        return _number(kind, value)
    if kind is Path:
        return Path(value) if isinstance(value, str) else _INVALID
    if kind in (bool, str, types.NoneType):
        return value if type(value) is kind else _INVALID
    raise TypeError(f"a configuration field cannot be annotated {kind!r}; see the kinds in {__name__}")


def _number(kind: type, value: Any) -> Any:
    """Whole numbers may be written as 1e9, any number as text: YAML 1.1 readers leave 3e-4 a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _INVALID
    try:
        number = value if kind is int and isinstance(value, int) else float(value)
    except (ValueError, OverflowError):
        return _INVALID
    if kind is float:
        return number if math.isfinite(number) else _INVALID
    exact = isinstance(number, int) or (number.is_integer() and abs(number) <= _EXACT_IN_FLOAT)
    return int(number) if exact else _INVALID


def _same(choice: Any, value: Any) -> bool:
    return type(choice) is type(value) and choice == value


def _choices(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    return tuple(member.value for member in kind) if is_enum else ()


def _container(kind: Any) -> type | None:
    """The plain container a `kind` is written as."""
    origin = typing.get_origin(kind)
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return dict
    return list if origin is tuple else None


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _kind(cls: type) -> str:
    hint = _hints(cls).get("kind")
    if typing.get_origin(hint) is not Literal:
        raise TypeError(f'{cls.__name__} is one of several dataclasses of a union; add kind: Literal["name"]')
    return typing.get_args(hint)[0]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)

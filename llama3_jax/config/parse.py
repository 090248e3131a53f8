"""YAML text to a `Node` tree, strictly: no Python objects, no duplicate keys, no surprising scalars.

Plain scalars follow YAML 1.2's core schema, so `3e-4` is a number and `on`, `12:30`, `2024-01-01` are text.
"""

import re
from collections.abc import Callable
from typing import ClassVar

import yaml

from llama3_jax.config.errors import ConfigError, Problem
from llama3_jax.config.tree import Node, join

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9][0-9_]*"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}


for _name, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": rf"[-+]?({_DIGITS}\.[0-9_]*|\.{_DIGITS})([eE][-+]?[0-9]+)?|[-+]?{_DIGITS}[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)

_SCALARS: dict[str, Callable[[str], None | bool | int | float | str]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": lambda text: text,
}


def parse(text: str, where: Callable[[int], str]) -> Node:
    """The tree of one YAML document; an empty one is a `None` node.

    Args:
        where: the origin of a line, counted from 1.
    Raises: ConfigError for anything that is not plain YAML data.
    """
    problems: list[Problem] = []
    try:
        root = yaml.compose(text, Loader=_Loader)
        tree = _Converter(where, problems).convert(root, "", ()) if root else Node(None, where(1))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "; YAML indents with spaces, not tabs" if "'\\t'" in said else ""
        raise ConfigError([Problem(where(line), "", f"not valid YAML: {said}{hint}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character {error.character:#x} is not allowed"
        raise ConfigError([Problem(where(line), "", message)]) from None
    except RecursionError:
        raise ConfigError([Problem(where(1), "", "nested too deeply to be a run file")]) from None
    if problems:
        raise ConfigError(problems)
    return tree


class _Converter:
    def __init__(self, where: Callable[[int], str], problems: list[Problem]):
        self._where = where
        self._problems = problems
        self._done: dict[yaml.Node, Node] = {}
        """Nodes already converted: an alias shares its anchor's tree instead of multiplying it."""

    def convert(self, node: yaml.Node, key: str, above: tuple[yaml.Node, ...]) -> Node:
        if node in above:
            self._refuse(node, key, "an alias may not contain itself")
            return Node(None, self._origin(node))
        if node not in self._done:
            self._done[node] = Node(self._value(node, key, (*above, node)), self._origin(node))
        return self._done[node]

    def _value(self, node: yaml.Node, key: str, above: tuple[yaml.Node, ...]):
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node, key, above)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.convert(item, join(key, i), above) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and tag in _SCALARS:
            try:
                return _SCALARS[tag](node.value)
            except (KeyError, ValueError):
                self._refuse(node, key, f"{node.value[:60]!r} is not a valid {tag}")
                return None
        self._refuse(node, key, f"tag {node.tag!r} is not allowed; use plain values, lists and mappings")
        return None

    def _mapping(self, node: yaml.MappingNode, key: str, above: tuple[yaml.Node, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for name, item in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._refuse(name, key, "a key must be a single word, not a list or a mapping")
            elif name.value in found:
                first = found[name.value].origin
                self._refuse(name, join(key, name.value), f"key given twice (first at {first}); keep one")
            else:
                value = self.convert(item, join(key, name.value), above)
                found[name.value] = Node(value.value, self._origin(name))
        return found

    def _origin(self, node: yaml.Node) -> str:
        return self._where(node.start_mark.line + 1)

    def _refuse(self, node: yaml.Node, key: str, message: str) -> None:
        self._problems.append(Problem(self._origin(node), key, message))

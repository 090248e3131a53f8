"""`a.b=c` assignments onto a parsed run file."""

import re

from llama3_jax.config.errors import ConfigError, Problem
from llama3_jax.config.parse import parse
from llama3_jax.config.tree import Node, join

COMMAND_LINE = "command line"


def parse_override(text: str) -> tuple[str, Node]:
    """The dotted key and the value (YAML: a scalar, list or mapping) of `a.b=c`.

    Raises: ConfigError if `text` is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[^\s.=]+(\.[^\s.=]+)*", key):
        message = f"cannot read override {text!r}; write key=value, such as phases.0.stages.1.tokens=100"
        raise ConfigError([Problem(COMMAND_LINE, "", message)])
    return key, parse(value, lambda line: COMMAND_LINE)


def assign(root: Node, key: str, value: Node) -> Node:
    """`root` with the value at dotted `key` replaced whole; missing mappings are created, list items are not.

    Raises: ConfigError if the key leads through a scalar or to a list item that does not exist.
    """
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return _assign(root, parts, value, "")


def _assign(node: Node, parts: list[str], value: Node, at: str) -> Node:
    if not parts:
        return value
    head, *rest = parts
    here = join(at, head)
    if isinstance(node.value, list):
        if not (head.isdecimal() and int(head) < len(node.value)):
            message = f"{at} has {len(node.value)} items; give an index from 0, or set {at}=[...] whole"
            raise ConfigError([Problem(value.origin, here, message)])
        items = list(node.value)
        items[int(head)] = _assign(items[int(head)], rest, value, here)
        return Node(items, node.origin)
    if node.value is not None and not isinstance(node.value, dict):
        message = f"{at} is {node.value!r} ({node.origin}) and has no keys below it"
        raise ConfigError([Problem(value.origin, here, message)])
    below = node.value or {}
    child = _assign(below.get(head, Node(None, value.origin)), rest, value, here)
    return Node({**below, head: child}, node.origin)

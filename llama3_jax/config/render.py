"""A composed configuration as YAML text with origins, and the difference of two."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llama3_jax.config.tree import Node, children, join

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_COMMENT_COLUMN = 56


def render(node: Node) -> str:
    """YAML of a mapping, one value a line, each line ending in `# origin`; `load` reads it back unchanged."""
    lines = _block(node) if node.value else [("{}", node.origin)]
    column = min(_COMMENT_COLUMN, max(len(text) for text, _ in lines))
    return "".join(f"{text.ljust(column)}  # {origin}\n" for text, origin in lines)


def _block(node: Node) -> list[tuple[str, str]]:
    lines = []
    for part, child in children(node):
        below = [] if _is_inline(child) else _block(child)
        if isinstance(node.value, list):
            (first, origin), *rest = below or [(flow(child), _inline_origin(child))]
            lines += [(f"- {first}", origin), *((f"  {text}", origin) for text, origin in rest)]
        elif below:
            indented = [(f"  {text}", origin) for text, origin in below]
            lines += [(f"{flow(part)}:", child.origin), *indented]
        else:
            lines.append((f"{flow(part)}: {flow(child)}", _inline_origin(child)))
    return lines


def _is_inline(node: Node) -> bool:
    if isinstance(node.value, dict):
        return not node.value
    return all(_is_inline(child) and not isinstance(child.value, dict) for _, child in children(node))


def _inline_origin(node: Node) -> str:
    below = [_inline_origin(child) for _, child in children(node)]
    return ", ".join(dict.fromkeys(below or [node.origin]))


def flow(value: Any) -> str:
    """A value on one line of YAML that readers of YAML 1.1 and 1.2 understand alike."""
    if isinstance(value, Node):
        return flow(value.value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        text = repr(value)
        return re.sub(r"^(-?)(inf|nan)", r"\1.\2", text if "." in text else text.replace("e", ".0e"))
    if isinstance(value, str):
        return value if _PLAIN.match(value) and value.lower() not in _NOT_TEXT else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    dumped = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)
    return dumped.rstrip("\n")


def difference(before: Any, after: Any, at: str = "") -> list[str]:
    """What changed between two plain mappings, a line each: `phases[0].stages[1].tokens: 100 -> 200`."""
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [line for key in keys for line in _change(before, after, key, join(at, key))]
    if _is_sequence(before) and _is_sequence(after):
        one, two = dict(enumerate(before)), dict(enumerate(after))
        return [line for i in {**one, **two} for line in _change(one, two, i, f"{at}[{i}]")]
    return [f"{at}: {flow(before)} -> {flow(after)}"]


def _change(before: Mapping, after: Mapping, key: Any, at: str) -> list[str]:
    if key in before and key in after:
        return difference(before[key], after[key], at)
    one, two = (flow(side[key]) if key in side else "(absent)" for side in (before, after))
    return [f"{at}: {one} -> {two}"]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

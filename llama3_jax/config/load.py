"""Compose a run: a file, programmatic values over it, overrides last; each value remembers its origin."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from llama3_jax.config.errors import ConfigError, Problem
from llama3_jax.config.files import display_name, find_config
from llama3_jax.config.overrides import assign, parse_override
from llama3_jax.config.parse import parse
from llama3_jax.config.render import render
from llama3_jax.config.schema import build, describe
from llama3_jax.config.tree import Node, annotate, origins, to_mapping, to_node

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    value: T
    tree: Node
    """Every value, defaults included, with its origin, in field order."""

    @functools.cached_property
    def origin(self) -> dict[str, str]:
        """Dotted key to `configs/quickstart.yaml:12`, `command line`, `default` or an `extra` label."""
        return origins(self.tree)

    def render(self) -> str:
        """The composed run file, each line ending in `# origin`; `load` of this text gives an equal value."""
        return render(self.tree)


def load(
    cls: type[T],
    path: Path | str,
    overrides: Sequence[str] = (),
    extra: Mapping[str, tuple[Any, str]] = MappingProxyType({}),
) -> Loaded[T]:
    """The run file at `path` as a `cls`.

    Args:
        path: a file, or the name of a published one (`llama3_8b`).
        overrides: `a.b=c`, applied last; `c` is YAML, list items are `phases.0.stages.1.tokens=100`.
        extra: dotted key to (value, origin), such as {"data.sources": (sources, "--data")}.
    Raises: ConfigError listing every problem found.
    """
    root, problems = _read(find_config(path)), []
    for key, (value, origin) in extra.items():
        root = assign(root, key, to_node(value, origin))
    for text in overrides:
        try:
            root = assign(root, *parse_override(text))
        except ConfigError as error:
            problems += error.problems
    try:
        value = build(cls, root)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Loaded(value, annotate(to_mapping(value), root))


def _read(path: Path) -> Node:
    name = display_name(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text ({error.reason} at byte {error.start})"
        raise ConfigError([Problem(name, "", message)]) from None
    root = parse(text, lambda line: f"{name}:{line}")
    if root.value is None:
        raise ConfigError([Problem(name, "", "the file is empty; a run file is a YAML mapping")])
    if not isinstance(root.value, dict):
        message = f"the file holds {describe(root)}; a run file is a YAML mapping of key: value lines"
        raise ConfigError([Problem(root.origin, "", message)])
    return root

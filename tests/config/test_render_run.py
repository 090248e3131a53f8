"""What is rendered loads again to an equal configuration, whatever the values; junk is refused in words."""

import enum
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama3_jax.config.errors import ConfigError
from llama3_jax.config.load import load
from llama3_jax.config.render import difference, render
from llama3_jax.config.schema import from_mapping
from llama3_jax.config.tree import to_mapping, to_node

pytestmark = pytest.mark.smoke

# a busy machine is no failure
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Shade(enum.Enum):
    DARK = "dark"
    LIGHT = 1


@dataclass(frozen=True, kw_only=True)
class Leaf:
    kind: Literal["leaf"] = "leaf"
    text: str
    number: float = 1.0
    either: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class Branch:
    kind: Literal["branch"] = "branch"
    leaves: tuple[Leaf, ...] = (Leaf(text="on"),)
    pair: tuple[int, bool] = (1, False)
    grid: tuple[tuple[Leaf, ...], ...] = ()
    rows: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    top: Branch | Leaf | None
    named: Mapping[str, Leaf]
    shade: Shade = Shade.DARK
    place: Path = Path("here")
    mode: Literal["a", 2, True] = "a"


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TRAPS = st.sampled_from(["", "5", "1e9", "1_0", "on", "n", "null", "~", "12:30", "- a", "a: b", " #", "\n", "'"])
TEXT = st.text() | TRAPS
LEAVES = st.builds(Leaf, text=TEXT, number=FLOATS, either=st.none() | st.integers() | TEXT)
BRANCHES = st.builds(
    Branch,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.booleans()),
    grid=st.lists(st.lists(LEAVES, max_size=2).map(tuple), max_size=2).map(tuple),
    rows=st.lists(st.lists(FLOATS, max_size=3).map(tuple), max_size=3).map(tuple),
)
TREES = st.builds(
    Tree,
    top=st.none() | LEAVES | BRANCHES,
    named=st.dictionaries(KEYS, LEAVES, max_size=3),
    shade=st.sampled_from(Shade),
    place=KEYS.map(Path),
    mode=st.sampled_from(["a", 2, True]),
)


def load_text(text: str, *overrides: str):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "run.yaml")
        path.write_text(text, encoding="utf-8", newline="")
        return load(Tree, path, overrides)


@unhurried
@given(TREES)
def test_any_configuration_survives_rendering(tree):
    text = render(to_node(tree, "made up"))
    again = load_text(text)
    assert again.value == tree
    assert load_text(again.render()).value == tree
    assert all("  # " in line for line in text.splitlines())


@unhurried
@given(TREES)
def test_any_configuration_survives_the_plain_mapping(tree):
    assert from_mapping(Tree, to_mapping(tree)) == tree
    assert difference(to_mapping(tree), to_mapping(tree)) == []


@unhurried
@given(TREES)
def test_other_readers_of_yaml_see_the_same_values(tree):
    assert yaml.safe_load(render(to_node(tree, "made up"))) == to_mapping(tree)


JUNK_KEYS = st.sampled_from(["top", "named", "kind", "text", "leaves", "pair"]) | st.text()
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JUNK_KEYS, inner, max_size=4),
)


@unhurried
@given(st.text() | st.text(alphabet="{}[]:,-#&*!|>'\"%@` \n\tae1.") | JUNK.map(yaml.safe_dump), st.text())
def test_junk_raises_nothing_but_config_error(text, override):
    for overrides in ((), (override,), (f"top.leaves={override}",)):
        try:
            load_text(text, *overrides)
        except ConfigError as error:
            assert str(error)


@unhurried
@given(JUNK)
def test_junk_mappings_raise_nothing_but_config_error(junk):
    with pytest.raises(ConfigError):
        from_mapping(Tree, {"shade": "dull", "junk": junk})


def test_rendering_is_a_readable_file():
    loaded = load_text("top:\n  kind: branch\n  pair: [3, true]\nnamed: {}\n", "top.pair.1=false")
    origin = loaded.origin["top"].removesuffix(":1")
    assert loaded.render().replace(origin, "run.yaml") == RENDERED


RENDERED = """\
top:                # run.yaml:1
  kind: branch      # run.yaml:2
  leaves:           # default
    - kind: leaf    # default
      text: "on"    # default
      number: 1.0   # default
      either: null  # default
  pair: [3, false]  # run.yaml:3, command line
  grid: []          # default
  rows: []          # default
named: {}           # run.yaml:4
shade: dark         # default
place: here         # default
mode: a             # default
"""


def test_difference_names_what_changed():
    before = {"name": "a", "phases": [{"stages": [{"tokens": 1}, {"tokens": 100}]}], "gone": 3e-5}
    stages = [{"tokens": 1}, {"tokens": 200}, {"tokens": 5}]
    after = {"name": "a", "phases": [{"stages": stages}], "new": [1, "x y"]}
    assert difference(before, after) == [
        "phases[0].stages[1].tokens: 100 -> 200",
        "phases[0].stages[2]: (absent) -> {tokens: 5}",
        "gone: 3.0e-05 -> (absent)",
        'new: (absent) -> [1, "x y"]',
    ]


def test_reading_run_files_loads_no_array_library():
    code = "import sys, llama3_jax.config.load; assert not {'jax', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

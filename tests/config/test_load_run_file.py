"""Run files become dataclasses; every value says where it came from; every mistake says where it is."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from llama3_jax.config.errors import ConfigError
from llama3_jax.config.load import load


class Remat(enum.Enum):
    NONE = "none"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Cosine:
    kind: Literal["cosine"] = "cosine"
    peak: float = 1.0
    warmup_steps: int = 10


@dataclass(frozen=True, kw_only=True)
class Constant:
    kind: Literal["constant"] = "constant"
    rate: float


@dataclass(frozen=True, kw_only=True)
class Model:
    num_layers: int
    model_dim: int = 64
    remat: Remat = Remat.NONE

    def __post_init__(self):
        if self.num_layers < 1:
            raise ValueError(f"num_layers={self.num_layers}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class Stage:
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Run:
    model: Model = Model(num_layers=2, model_dim=32)
    stages: tuple[Stage, ...]
    schedule: Cosine | Constant | None = Cosine(peak=3e-4)
    betas: tuple[float, float] = (0.9, 0.95)
    name: str = "run"
    data: Path = Path("data")
    weights: Mapping[str, float] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    save_every: int | Literal["never"] = 100
    shuffle: bool = True


pytestmark = pytest.mark.smoke

FILE = """\
# a run
model:
  num_layers: 4
stages:
  - tokens: 1e9
  - tokens: 252_000_000
"""


@pytest.fixture
def compose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def compose(text=FILE, *overrides, **extra):
        Path("run.yaml").write_text(text)
        return load(Run, "run.yaml", overrides, **extra)

    return compose


def problems(compose, *arguments) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(*arguments)
    return [str(problem) for problem in caught.value.problems]


def test_values_and_their_origins(compose):
    loaded = compose(FILE, "stages.1.tokens=7", extra={"data": (Path("/books"), "--data")})
    assert loaded.value.stages == (Stage(tokens=10**9), Stage(tokens=7))
    assert loaded.value.data == Path("/books")
    assert loaded.origin["model.num_layers"] == "run.yaml:3"
    assert loaded.origin["stages.1.tokens"] == "command line"
    assert loaded.origin["stages.0"] == "run.yaml:5"
    assert loaded.origin["data"] == "--data"
    assert loaded.origin["betas.1"] == loaded.origin["schedule.peak"] == "default"


def test_keys_not_written_keep_the_default_of_the_surrounding_configuration(compose):
    loaded = compose(FILE, "schedule.warmup_steps=5")
    assert loaded.value.model.model_dim == 32
    assert loaded.value.schedule == Cosine(peak=3e-4, warmup_steps=5)


def test_another_kind_starts_afresh_and_a_mapping_override_replaces_whole(compose):
    assert compose(FILE, "schedule={kind: constant, rate: 3e-4}").value.schedule == Constant(rate=3e-4)
    assert compose(FILE, "schedule=null").value.schedule is None
    weighted = FILE + "weights: {web: 1, code: 2}\n"
    assert compose(weighted, "weights={web: 3}").value.weights == {"web": 3.0}
    assert compose(weighted, "weights.web=3").value.weights == {"web": 3.0, "code": 2.0}


def test_overrides_win_over_programmatic_values_which_win_over_the_file(compose):
    extra = {"model.num_layers": (5, "--layers")}
    assert compose(extra=extra).value.model.num_layers == 5
    assert compose(FILE, "model.num_layers=6", extra=extra).value.model.num_layers == 6


@pytest.mark.parametrize("text", ["3e-4", "'3e-4'", "0.0003", ".0003", "3.0E-4"])
def test_numbers_are_read_however_they_are_written(compose, text):
    assert compose(FILE, f"schedule.peak={text}").value.schedule.peak == 3e-4


@pytest.mark.parametrize("text", ["on", "12:30", "2024-01-01", "007", "a b", "'5'"])
def test_words_that_yaml_1_1_would_convert_stay_text(compose, text):
    assert compose(FILE, f"name={text}").value.name == text.strip("'")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.num_layers=true", "is true; give a whole number"),
        ("model.num_layers=2.5", "is 2.5; give a whole number"),
        ("model.num_layers=1e30", "give a whole number"),
        ("schedule.peak=true", "give a number"),
        ("schedule.peak=.nan", "give a number"),
        ("shuffle=1", "is 1; give true or false"),
        ("name=5", "is 5; give text; put it in quotes"),
        ("betas=[0.9]", "is a list of 1; give a list of 2"),
        ("model.remat=ful", "give one of 'none', 'full'; did you mean 'full'?"),
        ("dtype=bfloat", "give one of 'float32', 'bfloat16'; did you mean 'bfloat16'?"),
        ("save_every=sometimes", "give a whole number or one of 'never'"),
        ("model.num_layer=3", "did you mean 'num_layers'? The keys are num_layers, model_dim, remat"),
        ("schedule={kind: cosin}", "is 'cosin'; the kinds are cosine, constant; did you mean 'cosine'?"),
        ("schedule={kind: [x]}", "is a list of 1; the kinds are cosine, constant"),
        ("schedule={kind: constant}", "schedule.rate: missing; give a number"),
        ("model.num_layers=0", "command line: model.num_layers"),
        ("stages.2.tokens=1", "stages has 2 items"),
        ("model.num_layers.x=1", "is 4 (run.yaml:3) and has no keys below it"),
        ("stages", "cannot read override 'stages'"),
        ("a..b=1", "cannot read override"),
        ("name=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(compose, override, said):
    if override == "model.num_layers=0":  # checked by the dataclass, so it carries the key of that dataclass
        assert problems(compose, FILE, override) == ["run.yaml:2: model: num_layers=0; use at least 1"]
        return
    (problem,) = problems(compose, FILE, override)
    assert problem.startswith("command line: ")
    assert said in problem


def test_all_problems_are_reported_together_with_their_lines(compose):
    text = "model:\n  num_layers: four\n  dim: 3\nshuffle: maybe\n"
    assert problems(compose, text, "oops") == [
        "command line: cannot read override 'oops'; write key=value, such as phases.0.stages.1.tokens=100",
        "run.yaml:3: model.dim: unknown key; did you mean 'model_dim'? The keys are num_layers, model_dim, remat",
        "run.yaml:2: model.num_layers: is 'four'; give a whole number",
        "run.yaml:1: stages: missing; give a list",
        "run.yaml:4: shuffle: is 'maybe'; give true or false",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "run.yaml: the file is empty"),
        ("# only a comment\n", "run.yaml: the file is empty"),
        ("- 1\n- 2\n", "run.yaml:1: the file holds a list of 2"),
        ("model: {num_layers: 4\nstages: []\n", "run.yaml:2: not valid YAML"),
        ("model:\n\tnum_layers: 4\n", "YAML indents with spaces, not tabs"),
        ("name: a\nshuffle: true\nname: b\n", "run.yaml:3: name: key given twice (first at run.yaml:1)"),
        ("name: !!python/object/apply:os.getcwd []\n", "run.yaml:1: name: tag"),
        ("stages: &x [*x]\n", "an alias may not contain itself"),
        ("name: a\x07b\n", "run.yaml:1: character 0x7 is not allowed"),
        ("name: a\n--- \nname: b\n", "run.yaml:2: not valid YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_run_file_is_explained(compose, text, said):
    (problem,) = problems(compose, text)
    assert said in problem


def test_bytes_that_are_not_text_are_explained(compose):
    Path("run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.yaml: not UTF-8 text"):
        load(Run, "run.yaml")


def test_aliases_share_values(compose):
    text = "model: {num_layers: 1}\nstages: [&a {tokens: 5}, *a]\n"
    assert compose(text, "stages.0.tokens=6").value.stages == (Stage(tokens=6), Stage(tokens=5))

"""Named sets of XLA's flags for GPUs: what a run asks for reaches XLA, is printed, and is kept with the run."""

import os
import re
import subprocess
import sys

import jax
import pytest
import topologies
from tiny_run import SHORT, write_run

from llama3_jax.commands import compose
from llama3_jax.commands.xla import FlagSet, Xla
from llama3_jax.config.errors import ConfigError
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken

ALL = "xla.flags=[latency_hiding, combine_collectives, deterministic]"
MAIN = "import sys; from llama3_jax.commands.main import main; sys.exit(main(sys.argv[1:]))"


def train(place, *overrides, before="", flags=""):
    """`llama3 train` in a process of its own. Args: flags: that the user has in the environment."""
    command = [sys.executable, "-c", before + MAIN, "train", str(write_run(place)), "--runs", str(place / "runs"), *overrides]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": flags})


@pytest.mark.slow
def test_a_run_tells_them_and_keeps_them(tmp_path):
    overrides = (ALL, "xla.memory_fraction=0.9", "samples.every_steps=99", *SHORT)
    done = train(tmp_path, *overrides, flags="--xla_gpu_autotune_level=2")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("XLA: ")]
    assert line.startswith("XLA: latency_hiding, combine_collectives, deterministic, memory fraction 0.9: ")
    flags = [f"--{name}={value}" for each in FlagSet for name, value in each.flags.items()]
    assert line.endswith(" ".join([*flags, "--xla_gpu_autotune_level=2", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9"]))
    assert line in (tmp_path / "runs/tiny/log.txt").read_text()
    assert "latency_hiding" in (tmp_path / "runs/tiny/config.yaml").read_text()


def test_xla_hears_what_a_run_asks_for(tmp_path):
    """A flag that it does not know ends the process: so it reads the others too."""
    unknown = "from llama3_jax.commands import xla; xla._FLAGS[xla.FlagSet.DETERMINISTIC] = {'xla_no_such_flag': 'true'}\n"
    done = train(tmp_path, "xla.flags=[deterministic]", before=unknown)
    assert done.returncode and "--xla_no_such_flag" in done.stderr


def test_what_the_environment_says_wins():
    environment = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}
    Xla().apply(environment)
    assert environment["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"
    told = Xla(flags=(FlagSet.DETERMINISTIC,), memory_fraction=0.9)
    with pytest.raises(ValueError, match="comes too late: jax has looked for its devices .* export XLA_FLAGS='--xla_gpu_det"):
        jax.devices()
        told.apply(environment)
    wanted = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=false"}
    told.apply(environment | wanted)  # nothing is left to tell


@pytest.mark.parametrize("value, told", [("flags=[fast]", "fast"), ("memory_fraction=0", "=0"), ("memory_fraction=2", "=2")])
def test_others_are_refused(tmp_path, value, told):
    with pytest.raises(ConfigError, match=told):
        compose(write_run(tmp_path), [f"xla.{value}"])


@pytest.mark.compiled
def test_what_they_make_of_a_step_on_eight_h100(monkeypatch):
    """Of two layers as wide as those of 8B, whose parameters are split."""
    mesh, optimizer = topologies.mesh_of(topologies.gpu(), data=8), AdamW()
    cfg = ModelConfig(
        num_layers=2, model_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128, ffw_dim=14_336, vocab_size=16_384,
        context_length=8192,
    )  # fmt: skip
    objective, state = NextToken(precision=Precision.BFLOAT16, remat=Remat.SAVE_ATTENTION), abstract_state(cfg, optimizer, mesh)
    plain = jax.stages.Lowered.compile

    def gathers(*sets):
        options = {name: value == "true" or int(value) for each in sets for name, value in each.flags.items()}
        monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: plain(lowered, compiler_options=options))
        program = compile_step(objective, optimizer, state, (1, 8, 8192), mesh)
        return len(re.findall(r" all-gather(?:-start)?\(", program.as_text()))

    apart, combined, hidden = gathers(), gathers(FlagSet.COMBINE_COLLECTIVES), gathers(FlagSet.LATENCY_HIDING)
    assert combined < apart / 2, "the parameters of a layer are gathered together"
    assert hidden > apart, "the loop is written out twice, so that one layer's are gathered while another's are used"

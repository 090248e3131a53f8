"""The published run files say what the paper says, and what their heads claim.

A snapshot of every composed value lies in `snapshots/`, so that a change of a default or of a file is reviewed as a
diff. To refresh them:  UPDATE_SNAPSHOTS=1 python -m pytest tests/configs
"""

import os
import re
from pathlib import Path

import pytest
from sized_source import sized

from llama3_jax.batches.timeline import timeline
from llama3_jax.commands.main import main
from llama3_jax.commands.run import TrainRun
from llama3_jax.config.files import published_configs
from llama3_jax.config.load import load
from llama3_jax.config.render import render
from llama3_jax.config.tree import to_node
from llama3_jax.train.learning_rate import learning_rates

PARAMETERS = {
    "llama3_1b": 1_235_814_400,
    "llama3_3b": 3_212_749_824,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
}
PEAK_LEARNING_RATE = {"llama3_8b": 3e-4, "llama3_70b": 1.5e-4, "llama3_405b": 8e-5}
"""Table 3."""
SNAPSHOTS = Path(__file__).parent / "snapshots"

every_run = pytest.mark.parametrize("name", PARAMETERS)


def compose(name: str) -> TrainRun:
    return load(TrainRun, name).value


def spans_of(run: TrainRun):
    return timeline([phase.stages for phase in run.phases], sized(**dict.fromkeys(run.sources, 1)))


def rate_of(run: TrainRun):
    spans = spans_of(run)
    return learning_rates(
        [
            (phase.learning_rate, sum(span.num_steps for span in spans if span.phase == number))
            for number, phase in enumerate(run.phases)
        ]
    )


def count(run: TrainRun) -> str:
    """What the head of a run file must say was counted."""
    spans = spans_of(run)
    flops = sum((span.end_token - span.first_token) * run.model.flops_per_token(span.stage.sequence_length / 2) for span in spans)
    by_rule = 6 * run.model.num_parameters * spans[-1].end_token
    return (
        f"{run.model.num_parameters:,} parameters, {spans[-1].end_token:,} tokens, {spans[-1].end_step:,} steps, "
        f"{flops:.3g} FLOPs ({by_rule:.3g} by 6ND)"
    )


@every_run
def test_head_says_what_is_counted_and_how_it_is_started(name):
    head = (published_configs() / f"{name}.yaml").read_text().split("\nname:")[0]
    run = compose(name)
    assert run.name == name and f"llama3 train {name} " in head
    assert re.search(r"counted: (.*)", head)[1] == count(run)
    sizes = {run.mesh.size} | {phase.mesh.size for phase in run.phases if phase.mesh}
    assert len(sizes) == 1, "a job keeps its devices from phase to phase"
    assert f"On {sizes.pop():,} H100" in head


@every_run
def test_architecture_is_the_released_one(name):
    model = compose(name).model
    assert model.num_parameters == PARAMETERS[name]
    assert (model.vocab_size, model.rope_theta, model.norm_eps, model.num_kv_heads) == (128_256, 500_000, 1e-5, 8)
    assert model.num_heads * model.head_dim == model.model_dim
    small = name in ("llama3_1b", "llama3_3b")
    assert model.tie_embeddings == small
    scaling = next(phase.rope_scaling for phase in compose(name).phases if phase.rope_scaling)
    assert (scaling.factor, scaling.original_context_length) == (32 if small else 8, 8192)


@every_run
def test_long_context_is_switched_on_after_the_8k_training_and_ends_at_128k(name):
    initial, long_context, anneal = compose(name).phases
    assert initial.rope_scaling is None and long_context.rope_scaling is not None
    lengths = [stage.sequence_length for stage in long_context.stages]
    assert max(stage.sequence_length for stage in initial.stages) == 8192
    assert lengths == sorted(lengths) and lengths[-1] == anneal.stages[-1].sequence_length == 131_072


@every_run
def test_annealing_ends_at_a_rate_of_zero_and_is_averaged(name):
    run = compose(name)
    spans, rate = spans_of(run), rate_of(run)
    assert rate(spans[-1].end_step - 1) == 0 < rate(spans[-1].end_step - 2) < rate(spans[-2].end_step - 1)
    assert (run.phases[-1].average_every, run.phases[-1].stages[0].tokens) == (1, 40_000_000)
    assert rate(spans[-2].end_step) < rate(spans[-2].end_step - 1), "the anneal begins where the cosine was"


@every_run
def test_data_is_the_papers_mix_until_the_anneal(name):
    run = compose(name)
    mixes = [stage.mix for phase in run.phases for stage in phase.stages if stage.mix]
    assert mixes[0] == {"general": 0.50, "math_reasoning": 0.25, "code": 0.17, "multilingual": 0.08}
    assert [sum(mix.values()) for mix in mixes] == pytest.approx([1, 1])
    assert run.phases[-1].stages[0].mix == mixes[1]


@pytest.mark.parametrize("name", PEAK_LEARNING_RATE)
def test_learning_rate_is_table_3s(name):
    run, peak = compose(name), PEAK_LEARNING_RATE[name]
    rate, rule = rate_of(run), run.phases[0].learning_rate.rule(before=lambda step: 0.0, first_step=0, num_steps=1)
    assert rate(0) == pytest.approx(peak / 8000) and rate(3999) == pytest.approx(peak / 2)
    assert rate(7999) == rate(8000) == peak and rate(8001) < peak
    assert rule(1_200_000) == rule(1_300_000) == pytest.approx(peak / 100)
    assert rule(1_199_999) > rule(1_200_000)
    long_context = spans_of(run)[3].first_step
    assert rate(long_context) == rule(long_context), "one cosine spans the ramp and the long context"


def test_405b_ramps_as_section_3_4_1_says():
    run = compose("llama3_405b")
    first, second, third, *_ = spans_of(run)
    ramp = [(s.stage.tokens_per_step, s.stage.sequence_length) for s in (first, second, third)]
    assert ramp == [(2**22, 4096), (2**23, 8192), (2**24, 8192)]
    assert (first.end_step, first.end_token) == (61, 61 * 2**22)
    assert 252e6 <= first.end_token < 252e6 + 2**22
    assert second.end_step == 61 + 342_101 and 2.87e12 <= second.end_token < 2.87e12 + 2**23


def test_405b_trains_on_15_6t_tokens_with_800b_of_long_context():
    run = compose("llama3_405b")
    spans = spans_of(run)
    assert 15.6e12 <= spans[-1].end_token < 15.6e12 + 2**24
    assert 1_050_000 < spans[-1].end_step < 1_200_000
    long_context = [span for span in spans if span.phase == 1]
    assert len(long_context) == 6
    assert sum(span.end_token - span.first_token for span in long_context) == pytest.approx(800e9, abs=2**24)


def test_405b_at_128k_is_table_4s_mesh_with_the_pipeline_given_to_data():
    run = compose("llama3_405b")
    mesh, stage = run.phases[1].mesh, run.phases[1].stages[-1]
    assert (mesh.model, mesh.sequence, mesh.data) == (8, 16, 16 * 8)
    assert stage.num_rows == mesh.data and stage.microbatches(mesh.data) == 1, "one row of 131,072 a group"
    assert run.mesh.size == mesh.size == 16_384 and run.mesh.model == 8


@every_run
def test_snapshot(name):
    composed = "".join(
        line.rstrip().removesuffix("#").rstrip() + "\n" for line in render(to_node(compose(name), "")).splitlines()
    )
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(composed)
    assert composed == path.read_text(), f"{name} changed; if that is meant: UPDATE_SNAPSHOTS=1 python -m pytest tests/configs"


def test_print_config_needs_no_device(capsys):
    assert main(["train", "llama3_8b", "--print-config", "data.tokenizer_path=elsewhere.model"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"peak: 0.0003 +# configs/llama3_8b.yaml:\d+", printed)
    assert re.search(r"tokenizer_path: elsewhere.model +# command line", printed)

"""A run that goes on may add a source and change what is still to come, and nothing else; repeats are counted beforehand."""

import json

import pytest
from tiny_run import write_run

from llama3_jax import commands
from llama3_jax.checkpoint.manifest import read_manifest
from llama3_jax.commands.run import changes
from llama3_jax.commands.train import compose
from llama3_jax.config.tree import to_mapping
from llama3_jax.train import loop
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.preemption import Interrupted

STOP = 10
"""A step of `wide`, the second of two stages of the first phase."""


def steps_of(directory):
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in read_metrics(directory / "metrics.jsonl") if "loss" in r}


def train_until(step, run_file, overrides, runs):
    """Runs until a checkpoint after `step`."""

    def stop(self, span):
        save(self, span)
        if self.done == step:
            self.around.store.wait()
            raise Interrupted(f"after step {step}")

    save = loop._Loop._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_save", stop)
        with pytest.raises(Interrupted):
            commands.train(run_file, overrides, runs=runs)
    return runs / "tiny"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, shared_programs):
    directory = tmp_path_factory.mktemp("mix")
    file = write_run(directory)
    lines = [json.dumps({"id": f"sum{n}", "text": " ".join(f"{n}+{m}={n + m}" for m in range(30))}) for n in range(60)]
    (directory / "sums.jsonl").write_text("\n".join(lines))
    return file


@pytest.mark.slow
def test_a_source_and_a_mix_take_effect_from_the_stage_that_names_them(run_file, tmp_path, capsys):
    short = ["phases.2.stages.0.tokens=256", "phases.1.stages.0.tokens=256"]
    unbroken = steps_of(commands.train(run_file, short, runs=tmp_path / "unbroken").directory)
    train_until(STOP, run_file, short, tmp_path)
    added = [
        *short,
        f"data.sources.sums={{kind: files, paths: [{run_file.parent}/sums.jsonl]}}",
        "phases.1.stages.0.mix={tales: 0.5, sums: 0.5}",
        "phases.2.stages.0.tokens=384",
    ]
    capsys.readouterr()
    result = commands.train(run_file, added, runs=tmp_path)
    out, steps = capsys.readouterr().out, steps_of(result.directory)
    assert f"continuing after step {STOP}" in out and "source sums:" in out
    first = {step: values for step, values in steps.items() if step <= 16}
    assert first == {step: unbroken[step] for step in first} and len(first) == 16, "the phase that was begun is as it was"
    assert steps[17] != unbroken[17] and max(steps) == max(unbroken) + 1
    manifest = read_manifest(max((result.directory / "checkpoints").iterdir()))
    assert [stage["mix"].keys() for stage in manifest.meta["cursor"]["begun"]] == [
        {"tales", "lists"}, {"tales", "lists"}, {"tales", "sums"}, {"tales", "lists"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "override, named",
    [
        ("phases.0.stages.0.mix.tales=0.5", "phases[0].stages[0].mix.tales"),
        ("phases.0.stages.1.mix={tales: 1}", "phases[0].stages[1].mix"),
        ("phases.0.stages.1.tokens=2048", "phases[0].stages[1].tokens"),
        ("phases.0.learning_rate.peak=0.1", "phases[0].learning_rate.peak"),
        ("data.sources.tales.paths=[other.jsonl]", "data.sources.tales"),
        ("data.held_out_fraction=0.2", "data.held_out_fraction"),
        ("packing=best_fit", "packing"),
        ("phases.1.stages.0.sequence_length=128", 'of 64 tokens" -> "concatenate, in blocks of 128 tokens'),
    ],
)
def test_what_is_trained_cannot_change(run_file, tmp_path_factory, override, named):
    runs = tmp_path_factory.getbasetemp() / "stopped"
    if not runs.exists():
        train_until(STOP, run_file, [], runs)
    with pytest.raises(ValueError) as refused:
        commands.train(run_file, [override], runs=runs)
    assert named in str(refused.value)


def test_the_stage_to_come_may_change_before_it_has_begun(run_file):
    before = to_mapping(compose(run_file).value)
    after = to_mapping(compose(run_file, ["phases.0.stages.1.mix={tales: 1}", "phases.2.average_every=1"]).value)
    short, wide = ({"phase": 0, "stage": name} for name in ("short", "wide"))
    assert changes(before, after, [short]) == []
    assert changes(before, after, [short, wide]) == ["phases[0].stages[1].mix: null -> {tales: 1.0}"]
    assert len(changes(before, after)) == 2


def test_a_source_that_repeats_too_often_is_refused_before_training(run_file, tmp_path, capsys):
    limits = ["max_epochs={tales: 0.3, lists: 100}"]
    with pytest.raises(ValueError, match=r"source tales would be read 0\.\d\d times .* max_epochs\.tales=0\.3 allows less"):
        commands.train(run_file, limits, runs=tmp_path)
    assert not (tmp_path / "tiny/metrics.jsonl").exists()
    with pytest.raises(ValueError, match="max_epochs names source 'tale'"):
        commands.train(run_file, ["max_epochs={tale: 1}"], runs=tmp_path / "b")


@pytest.mark.slow
def test_a_run_goes_on_with_another_precision_and_says_so(run_file, tmp_path, capsys):
    short = ["phases.1.stages.0.tokens=128", "phases.2.stages.0.tokens=128"]
    directory = train_until(STOP, run_file, short, tmp_path)
    before = steps_of(directory)
    capsys.readouterr()
    commands.train(run_file, [*short, "precision=bfloat16"], runs=tmp_path)
    assert "otherwise than it was saved:\n  precision: float32 -> bfloat16\n" in capsys.readouterr().out
    steps = steps_of(directory)
    assert before.items() <= steps.items() and len(steps) == 18
    assert max(steps[step][0] for step in range(STOP + 1, 19)) < steps[1][0]
    newest = max((directory / "checkpoints").iterdir())
    assert {dtype for dtype, _ in read_manifest(newest).arrays.values()} == {"float32", "int32"}

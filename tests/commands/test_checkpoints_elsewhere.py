"""Checkpoints in a place of their own, on an object store or another disk: a run outlives its machine, and the commands
find them there."""

import shutil

import pytest
from moments import Watch
from tiny_run import SHORT, STEPS, start, write_run, written

from llama3_jax import commands
from llama3_jax.checkpoint.bucket import Bucket
from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.commands.main import main
from llama3_jax.commands.run_directory import saved_so_far
from llama3_jax.train.journal import read_metrics


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, shared_programs):
    return write_run(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def unbroken(run_file):
    return commands.train(run_file, ["name=unbroken"], runs=run_file.parent / "runs").directory


@pytest.fixture(scope="module")
def bucket(lake):
    return f"{lake}/runs/tiny"


def saved(place):
    return place_at(place).steps()


def called(capsys, *arguments):
    code = main([*map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture(scope="module")
def survivor(run_file, bucket):
    """A run whose machine was lost in the middle, with all that was on it; another machine went on."""
    lost, other = run_file.parent / "lost", run_file.parent / "other"
    process = start(run_file, lost, f"checkpoint.directory={bucket}")
    assert Watch(lost / "tiny").until(lambda watch: watch.last_record().get("step", 0) >= 12, process)
    process.kill()
    process.wait()
    shutil.rmtree(lost)
    assert saved(bucket)
    return commands.train(run_file, [f"checkpoint.directory={bucket}"], runs=other).directory


@pytest.mark.slow
def test_a_run_goes_on_from_the_store_on_another_machine(survivor, unbroken, bucket):
    log = (survivor / "log.txt").read_text()
    first = int(log.split("continuing after step ")[1].split()[0])
    assert 0 < first < STEPS and not (survivor / "checkpoints").exists()
    later = [record for record in written(unbroken) if record["step"] > first]
    assert [record for record in written(survivor) if record["step"] > first] == later, "not a bit is lost"
    assert saved(bucket) == saved(unbroken / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["run directory", "url"])
def test_the_commands_find_them(survivor, unbroken, bucket, given, tmp_path, capsys):
    place = survivor if given == "run directory" else bucket
    code, said = called(capsys, "checkpoint", "ls", place)
    assert code == 0 and all(f"{step:>10,}" in said for step in saved(bucket))
    code, said = called(capsys, "checkpoint", "verify", place)
    assert code == 0 and said.count("sound") == 2
    assert called(capsys, "checkpoint", "export-weights", place, "--out", tmp_path / "weights")[0] == 0
    assert called(capsys, "checkpoint", "average", place, "--out", tmp_path / "mean")[0] == 0
    texts = [commands.generate(where, ["the red old"], max_new_tokens=8) for where in (place, tmp_path / "weights", unbroken)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.slow
def test_nothing_is_exported_to_a_store(survivor, bucket, capsys):
    code, said = called(capsys, "checkpoint", "export-weights", bucket)
    assert code == 1 and "name a directory here with --out" in said


@pytest.mark.slow
def test_a_run_begins_with_weights_of_the_store(survivor, bucket, run_file, unbroken):
    scaled = "model.rope_scaling={factor: 4, original_context_length: 32}"  # as in the last phase of both
    more = [f"data.tokenizer_path={survivor}/tokenizer.model", *SHORT, scaled]
    runs = run_file.parent / "runs"
    first_losses = []
    for name, place in (("of_store", bucket), ("of_directory", unbroken)):
        begun = commands.train(run_file, [f"name={name}", f"init_from={place}", *more], runs=runs).directory
        first_losses.append(read_metrics(begun / "metrics.jsonl")[0]["loss"])
    assert first_losses[0] == first_losses[1]


@pytest.mark.slow
def test_checkpoints_that_moved_must_be_there(run_file, unbroken, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    runs = run_file.parent / "runs"
    with pytest.raises(ValueError, match=rf"is saved up to step {STEPS} in {unbroken}/checkpoints, which {elsewhere} is not"):
        commands.train(run_file, ["name=unbroken", f"checkpoint.directory={elsewhere}"], runs=runs)
    shutil.copytree(unbroken / "checkpoints", elsewhere)
    again = commands.train(run_file, ["name=unbroken", f"checkpoint.directory={elsewhere}"], runs=runs)
    assert f"complete: all {STEPS} steps" in (again.directory / "log.txt").read_text()
    assert [verify(path).step for path in sorted(elsewhere.glob("0*"))] == [25, 28]
    commands.train(run_file, ["name=unbroken"], runs=runs)  # and back


def test_a_store_that_does_not_answer_keeps_no_signal_waiting(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("checkpoint: {directory: 'gs://lake/gone'}")

    def refuse(_):
        raise OSError("the network is gone")

    monkeypatch.setattr(Bucket, "steps", refuse)
    assert saved_so_far(tmp_path).startswith("what is saved lies at gs://lake/gone, which does not answer (the network is gone)")


@pytest.mark.parametrize(
    "directory, why",
    [("elsewhere", "use an absolute path"), ("s3://lake/run", "checkpoints cannot lie at s3://lake/run: Orbax writes to gs://")],
)
def test_a_place_that_cannot_be_used_is_refused_before_training(run_file, directory, why):
    with pytest.raises(ValueError, match=why):
        commands.train(run_file, ["name=refused", f"checkpoint.directory={directory}"], runs=run_file.parent / "runs")
    assert not (run_file.parent / "runs" / "refused").exists()

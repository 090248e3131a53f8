"""What a user gets wrong is named, with the remedy, before anything is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from tiny_run import write_run

from llama3_jax import commands
from llama3_jax.checkpoint.manifest import hash_of_fields
from llama3_jax.commands.main import main
from llama3_jax.tokenizer.token_shard import checksum_of
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.loop import TrainingDiverged


def error_of(capsys, *arguments: str) -> str:
    assert main(list(arguments)) in (1, 2)
    return capsys.readouterr().err


@pytest.fixture
def run_file(tmp_path):
    return str(write_run(tmp_path))


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.num_kvheads=2", ["num_kvheads", "num_kv_heads"]),
        ("model.num_kv_heads=3", ["num_kv_heads=3", "num_heads=4"]),
        ("model.num_heads=four", ["num_heads", "four"]),
        ("mesh.data=3", ["mesh.data=3"]),
        ("mesh.model=4", ["mesh.model=4", "num_kv_heads=2"]),
        ("mesh.pipeline=2", ["pipeline"]),
        ("held_out.sequence_length=64", ["sequence_length=64", "32"]),
        ("phases.0.stages.0.tokens_per_step=100", ["tokens_per_step=100", "sequence_length=16"]),
        ("phases.0.stages.0.mix={tails: 1}", ["tails", "tales"]),
        ("phases.0.learning_rate.kind=cosine", ["cosine", "warmup_cosine"]),
        ("data.sources.tales.paths=3", ["paths"]),
        ("nonsense", ["nonsense"]),
        ("phases.0.learning_rate={kind: continue}", ["continue", "warmup_cosine"]),
        ("phases.0.stages.0.name=''", ["name"]),
        ("model.rope_theta=.inf", ["rope_theta"]),
        ("name=../up", ["name"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(run_file, capsys, override, words):
    message = error_of(capsys, "train", run_file, override)
    assert all(word in message for word in words), message


def test_attention_that_cannot_run_here_is_refused_before_training(run_file, tmp_path, capsys):
    message = error_of(capsys, "train", run_file, "--runs", str(tmp_path / "runs"), "attention=tpu")
    assert "attention=tpu runs on TPUs, the devices here are cpu; use attention=auto or xla" in message
    assert not (tmp_path / "runs/tiny/data").exists(), "nothing is prepared for it"


def test_a_wrong_config_is_refused_fast_and_without_a_device(run_file, tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llama3_jax", "train", run_file, "model.num_heads=0"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert time.monotonic() - started < 2.0
    assert done.returncode == 2 and "num_heads=0" in done.stderr
    assert "| jax\n" not in done.stderr and not (tmp_path / "runs").exists()


def test_print_config_shows_every_value_and_its_origin(run_file, capsys):
    assert main(["train", run_file, "seed=5", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert any(line.startswith("seed: 5") and "command line" in line for line in shown.splitlines())
    assert any("rope_theta" in line and "default" in line for line in shown.splitlines())


def test_a_missing_run_file_suggests_a_near_name(capsys):
    assert "quickstart" in error_of(capsys, "train", "quikstart")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("absent.txt", None, ["absent.txt"]),
        ("empty.txt", b"", ["empty"]),
        ("latin.txt", "caf\xe9".encode("latin-1") * 50, ["latin.txt", "UTF-8"]),
        ("broken.jsonl", b'{"text": "good"}\n{"text": ', ["broken.jsonl", "2"]),
        ("other.jsonl", b'{"body": "no text"}\n', ["other.jsonl", "text"]),
        ("picture.png", b"\x89PNG", ["picture.png"]),
        ("tiny.txt", b"too little text for a vocabulary", ["vocab_size"]),
    ],
)
def test_bad_documents_are_named(run_file, tmp_path, capsys, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = error_of(capsys, "train", run_file, "--data", str(tmp_path / name), "--runs", str(tmp_path / "runs"))
    assert all(word in message for word in words), message
    assert "Traceback" not in message


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of one step, its run file and its directory."""
    place = tmp_path_factory.mktemp("begun")
    overrides = [
        "phases=[{name: only, learning_rate: {kind: warmup_cosine, peak: 1e-3, final: 0, warmup_steps: 0, steps: 9}, "
        "stages: [{name: one, tokens: 128, sequence_length: 32, tokens_per_step: 128}]}]",
        "samples={every_steps: 9, prompt_tokens: 4, max_new_tokens: 2}",
    ]
    run_file = write_run(place)
    commands.train(run_file, overrides, runs=place / "runs")
    return run_file, overrides, place / "runs" / "tiny"


def test_a_directory_of_another_config_is_refused_with_the_difference(begun):
    run_file, overrides, directory = begun
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="model.ffw_dim: 64 -> 96"):
        commands.train(run_file, [*overrides, "model.ffw_dim=96"], runs=directory.parent)
    assert before == {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_a_directory_where_nothing_began_may_change_its_config(run_file, tmp_path, capsys):
    (tmp_path / "little.txt").write_text("too little text for a vocabulary of this size, but enough for a smaller one " * 3)
    little = ["train", run_file, "--data", str(tmp_path / "little.txt"), "--runs", str(tmp_path / "runs")]
    assert "vocab_size" in error_of(capsys, *little)
    assert "vocab_size=600" in error_of(capsys, *little, "model.vocab_size=600"), "not refused as another run's directory"


def test_a_config_of_another_version_is_refused(begun):
    run_file, overrides, directory = begun
    text = (directory / "config.yaml").read_text()
    try:
        (directory / "config.yaml").write_text(text + "future_idea: 1\n")
        with pytest.raises(ValueError, match="future_idea"):
            commands.train(run_file, overrides, runs=directory.parent)
    finally:
        (directory / "config.yaml").write_text(text)


def test_a_directory_that_is_no_run_is_refused(begun, tmp_path):
    run_file, overrides, _ = begun
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="thesis.tex"):
        commands.train(run_file, overrides, runs=tmp_path)
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.tex"]


def test_a_newer_checkpoint_is_refused(begun):
    run_file, overrides, directory = begun
    (manifest,) = directory.glob("checkpoints/*/manifest.json")
    text = manifest.read_text()
    try:
        fields = json.loads(text) | {"format_version": 99}
        fields.pop("sha256")
        manifest.write_text(json.dumps(fields | {"sha256": hash_of_fields(fields)}))
        with pytest.raises(ValueError, match="99"):
            commands.train(run_file, overrides, runs=directory.parent)
    finally:
        manifest.write_text(text)


def test_a_truncated_shard_and_a_shard_of_another_vocabulary_are_refused(begun):
    run_file, overrides, directory = begun
    shard = next(directory.glob("data/tales-train-*.arrayrecord"))
    content = shard.read_bytes()
    header = shard.with_suffix(".json")
    text = header.read_text()
    try:
        shard.write_bytes(content[:-100])
        with pytest.raises(ValueError, match=shard.name):
            commands.train(run_file, overrides, runs=directory.parent)
        shard.write_bytes(content)
        fields = json.loads(text) | {"tokenizer_fingerprint": "0" * 64}
        fields.pop("checksum")
        header.write_text(json.dumps(fields | {"checksum": checksum_of(fields)}))
        with pytest.raises(ValueError, match="tokenizer"):
            commands.train(run_file, overrides, runs=directory.parent)
    finally:
        shard.write_bytes(content)
        header.write_text(text)


def test_a_foreign_checkpoint_is_refused_with_the_difference(begun):
    run_file, overrides, directory = begun
    other = commands.train(run_file, [*overrides, "name=other", "model.rope_theta=10000"], runs=directory.parent).directory
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(directory / "checkpoints", other / "checkpoints")
    with pytest.raises(ValueError, match="rope_theta"):
        commands.train(run_file, [*overrides, "name=other", "model.rope_theta=10000"], runs=directory.parent)


def test_checkpoints_of_which_none_is_sound_stop_the_run(begun):
    run_file, overrides, directory = begun
    (manifest,) = directory.glob("checkpoints/*/manifest.json")
    text, metrics = manifest.read_text(), (directory / "metrics.jsonl").read_bytes()
    try:
        manifest.unlink()
        with pytest.raises(ValueError, match="(?s)can be used.*has no manifest"):
            commands.train(run_file, overrides, runs=directory.parent)
        assert (directory / "metrics.jsonl").read_bytes() == metrics
    finally:
        manifest.write_text(text)


def test_other_training_shards_are_refused_when_a_run_continues(begun):
    run_file, overrides, directory = begun
    held = directory.parent / "shards"
    shards = [
        "name=sharded", f"data={{kind: shards, tokenizer_path: {directory}/tokenizer.model, "
        f"train: {{tales: ['{held}/tales-train-*.arrayrecord']}}, held_out: {{tales: ['{held}/tales-held*.arrayrecord']}}}}",
    ]  # fmt: skip
    shutil.copytree(directory / "data", held)
    commands.train(run_file, [*overrides, *shards], runs=directory.parent)
    for path in held.glob("lists-train-00000*"):
        path.rename(held / path.name.replace("lists-train-00000", "tales-train-00001"))
    with pytest.raises(ValueError, match="shards"):
        commands.train(run_file, [*overrides, *shards], runs=directory.parent)


@pytest.mark.parametrize("files", [["config.yaml", "main.py"], ["config.yaml"]])
def test_a_project_of_somebody_else_is_not_taken_over(begun, tmp_path, files):
    run_file, overrides, _ = begun
    (tmp_path / "tiny").mkdir()
    for name in files:
        (tmp_path / "tiny" / name).write_text("lr: 1")
    with pytest.raises(ValueError, match="config.yaml"):
        commands.train(run_file, overrides, runs=tmp_path)
    assert (tmp_path / "tiny" / "config.yaml").read_text() == "lr: 1"


def test_the_same_text_twice_is_refused(run_file, tmp_path, capsys):
    for twice in ([tmp_path / "tales.jsonl"] * 2, [tmp_path / "tales.jsonl", tmp_path]):
        assert "same text" in error_of(capsys, "train", run_file, "--data", *map(str, twice))


def test_a_mix_may_name_the_sources_of_data(run_file, tmp_path, capsys):
    data = ["--data", str(tmp_path / "lists.jsonl"), str(tmp_path / "tales.jsonl"), "phases.0.stages.0.mix={lists: 1, tales: 2}"]
    assert main(["train", run_file, "--print-config", *data]) == 0
    assert "lists" in capsys.readouterr().out


def test_a_phase_whose_mesh_is_too_large_is_known_before_any_work(run_file, tmp_path, capsys):
    too_large = "phases.1.mesh={data: 2, model: 2, sequence: 4}"
    message = error_of(capsys, "train", run_file, too_large, "--runs", str(tmp_path / "r"))
    assert "16 devices" in message and not (tmp_path / "r" / "tiny" / "data").exists()


def test_a_single_string_is_not_taken_for_a_list(begun):
    run_file, _, directory = begun
    with pytest.raises(ValueError, match="list"):
        commands.generate(directory, "the king")
    with pytest.raises(ValueError, match="list"):
        commands.compose(run_file, data="tales.jsonl")


def test_two_processes_do_not_share_a_directory(begun):
    import fcntl

    run_file, overrides, directory = begun
    with (directory / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process"):
            commands.train(run_file, overrides, runs=directory.parent)


def test_a_diverging_run_skips_steps_within_its_budget_and_then_stops(begun):
    run_file, overrides, directory = begun
    steep = [
        "name=steep", "max_skipped_steps=2", "optimizer={clip_norm: 1e30}",
        "phases=[{name: only, learning_rate: {kind: warmup_cosine, peak: 1e30, final: 1e30, warmup_steps: 0, steps: 9}, "
        "stages: [{name: one, tokens: 1024, sequence_length: 32, tokens_per_step: 128}]}]",
    ]  # fmt: skip
    with pytest.raises(TrainingDiverged, match="max_skipped_steps=2"):
        commands.train(run_file, [*overrides, *steep], runs=directory.parent)
    records = read_metrics(directory.parent / "steep" / "metrics.jsonl")
    assert sum(record.get("skipped", 0) for record in records) == 3
    log = (directory.parent / "steep" / "log.txt").read_text()
    skipped = [int(record["step"]) for record in records if record.get("skipped")]
    assert all(f"batch {step} " in log for step in skipped)


def test_generating_from_nothing_is_refused(tmp_path, capsys):
    assert "run directory" in error_of(capsys, "generate", str(tmp_path / "nowhere"), "--prompt", "x")
    assert "no complete checkpoint and no weights" in error_of(capsys, "generate", str(tmp_path), "--prompt", "x")


def test_a_full_disk_stops_the_run_and_loses_nothing(begun, monkeypatch, tmp_path):
    run_file, overrides, directory = begun
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    with pytest.raises(OSError, match="1,000 free"):
        commands.train(run_file, [*overrides, "name=full"], runs=directory.parent)
    monkeypatch.undo()
    finished = commands.train(run_file, [*overrides, "name=full"], runs=directory.parent)
    assert os.listdir(finished.directory / "checkpoints") == ["00000001"]

"""`llama3 convert` as a command: taken up where it was killed, room found first, and its results trained and generated from."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from tiny_run import SHORT

sys.path.append(str(Path(__file__).parents[1] / "checkpoint"))
from foreign import CONFIGS, LLAMA, arrays, read_safetensors, same, write_hugging_face

from llama3_jax import commands
from llama3_jax.checkpoint.formats import convert as conversion
from llama3_jax.checkpoint.formats.load import load
from llama3_jax.checkpoint.manifest import read_manifest
from llama3_jax.checkpoint.restore import read_array
from llama3_jax.checkpoint.tree import flatten
from llama3_jax.commands.convert import convert
from llama3_jax.commands.main import main
from llama3_jax.commands.trained import load_trained
from llama3_jax.commands.weights import open_weights
from llama3_jax.model.transformer import Transformer
from llama3_jax.train.journal import read_metrics

FORMATS = ("native", "hugging_face", "meta")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("source") / "llama", LLAMA, arrays(LLAMA), files=2)


def contents(directory):
    """Tensors by name, in whatever format."""
    with_tensors = open_weights(directory).weights
    tensors = conversion.tensors(with_tensors.config)
    return {tensor.hugging_face: np.ascontiguousarray(with_tensors.read(tensor)) for tensor in tensors}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("after", [0, 1, 11, 20])
def test_a_conversion_that_was_stopped_is_taken_up(to, after, source, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    written, append = [], conversion._append

    def counted(journal, record):
        if len(written) > after:
            raise Stopped
        written.append(record)
        append(journal, record)

    out, said = tmp_path / "out", StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_append", counted)
        with pytest.raises(Stopped):
            convert(source, out, to, shards=2 if to == "meta" else None, stream=StringIO())
    assert not out.exists()
    with (tmp_path / "out.partial" / conversion.JOURNAL).open("ab") as journal:
        journal.write(b'{"tensor": "half a li')  # what a lost line looks like
    convert(source, out, to, shards=2 if to == "meta" else None, stream=said)
    assert same(contents(out), contents(source)) and not (tmp_path / "out.partial").exists()
    assert (f"{after} tensors were written before" in said.getvalue()) == (after > 0)
    whole = convert(source, tmp_path / "whole", to, shards=2 if to == "meta" else None, stream=StringIO())
    if to != "native":  # the arrays of Orbax lie in files of random names
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_another_conversion_is_not_taken_up(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_append", lambda journal, record: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(source, out, "hugging_face", shards=3, stream=StringIO())
    said = StringIO()
    convert(source, out, "meta", stream=said)
    assert "were written before" not in said.getvalue() and "was of another conversion, and is replaced" in said.getvalue()
    assert not list(out.glob("*.safetensors")) and same(contents(out), contents(source))


def test_two_at_once_do_not_mix(source, tmp_path, monkeypatch):
    from llama3_jax.checkpoint.formats.hugging_face import HuggingFaceFiles

    out, write = tmp_path / "out", HuggingFaceFiles.write

    def meanwhile(self, tensor, array):
        with pytest.raises(ValueError, match="another process is writing into .*out.partial"), monkeypatch.context() as patched:
            patched.setattr(HuggingFaceFiles, "write", write)
            convert(source, out, "hugging_face", stream=StringIO())
        return write(self, tensor, array)

    monkeypatch.setattr(HuggingFaceFiles, "write", meanwhile)
    convert(source, out, "hugging_face", stream=StringIO())
    assert same(contents(out), contents(source))


@pytest.mark.parametrize("to", ["meta", *(pytest.param(each, marks=pytest.mark.slow) for each in ("native", "hugging_face"))])
def test_killed_at_any_moment(to, tmp_path):
    cfg = replace(LLAMA, num_layers=12, ffw_dim=20_000)
    source, out = write_hugging_face(tmp_path / "source", cfg, arrays(cfg)), tmp_path / "out"
    command = [sys.executable, "-m", "llama3_jax", "convert", str(source), str(out), "--to", to]
    for lines in (1, 30, 60):
        process, journal = subprocess.Popen(command, stdout=subprocess.DEVNULL), tmp_path / "out.partial" / conversion.JOURNAL
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if journal.is_file() and journal.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 0
    assert same(contents(out), contents(source))


def test_room_is_found_first(source, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    assert main(["convert", str(source), str(tmp_path / "out"), "--to", "meta"]) == 1
    assert "bytes are needed and" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere", "OUT", "--to", "meta"], "no directory at nowhere"),
        (["EMPTY", "OUT", "--to", "meta"], "holds no weights: no config.json (Hugging Face), no params.json (Meta)"),
        (["gs://bucket/llama", "OUT", "--to", "meta"], "copy it first"),
        (["SOURCE", "EMPTY", "--to", "meta"], "exists already"),
        (["SOURCE", "SOURCE/inside", "--to", "meta"], "lies inside the weights"),
        (["SOURCE", "OUT", "--to", "meta", "--shards", "3"], "--shards 3: 8 heads over 2 key/value heads do not divide"),
        (["SOURCE", "OUT", "--to", "meta", "--shards", "16"], "16"),
        (["SOURCE", "OUT", "--to", "native", "--shards", "2"], "--shards 2: use 1 or more, and only with"),
        (["SOURCE", "OUT", "--to", "hugging_face", "--shards", "1000"], "has 21 tensors; use 21 or fewer"),
        (["SOURCE", "OUT", "--to", "native", "--dtype", "int8"], "dtype int8; use bfloat16, float16, float32"),
        (["SOURCE", "OUT", "--to", "native", "--kv-heads", "3"], "do not make 3"),
        (["SOURCE", "OUT", "--to", "native", "--step", "3"], "holds no checkpoints of a run"),
        (["SOURCE", "OUT", "--to", "native", "model_dim=3"], "only context_length, rope_theta, rope_scaling, norm_eps"),
        (["SOURCE", "OUT", "--to", "native", "rope_theta=0"], "rope_theta=0"),
        (["SOURCE", "OUT", "--to", "native", "rope_scaling=null"], "without the RoPE scaling"),
        (["SOURCE", "OUT", "--to", "native", "--tokenizer", "nowhere"], "no tokenizer at nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(arguments, words, source, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"OUT": tmp_path / "out", "EMPTY": tmp_path / "empty", "SOURCE/inside": source / "inside", "SOURCE": source}
    assert main(["convert", *(str(places.get(each, each)) for each in arguments)]) == 1
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_what_metas_files_do_not_say_may_be_told(source, tmp_path):
    meta = convert(source, tmp_path / "meta", "meta", stream=StringIO())
    (meta / "llama3_jax.json").unlink()  # as Meta's own are
    assert open_weights(meta).weights.config == LLAMA
    told = convert(meta, tmp_path / "told", "native", ["rope_scaling.factor=32"], stream=StringIO())
    assert open_weights(told).weights.config.rope_scaling.factor == 32
    tied = CONFIGS["3.2, tied"]
    meta = convert(write_hugging_face(tmp_path / "t", tied, arrays(tied)), tmp_path / "tied", "meta", stream=StringIO())
    (meta / "llama3_jax.json").unlink()
    assert open_weights(meta).weights.config == tied, "of the released models those with a tied output scale by 32"


@pytest.fixture(scope="module")
def run(tiny, shared_programs):
    return tiny.directory


def test_a_model_of_ours_for_others_and_back(run, tmp_path, capsys):
    expected = commands.generate(run, ["the red"], max_new_tokens=6)
    capsys.readouterr()
    assert main(["convert", str(run), str(tmp_path / "hf"), "--to", "hugging_face"]) == 0
    assert "written: " in capsys.readouterr().out
    average = read_array(run / "checkpoints/00000028", "average.model.final_norm")
    assert read_safetensors(tmp_path / "hf")["model.norm.weight"].tobytes() == average.tobytes(), "what annealing averaged"
    back = convert(tmp_path / "hf", tmp_path / "back", "native", stream=StringIO())
    for directory in (tmp_path / "hf", back):
        assert commands.generate(directory, ["the red"], max_new_tokens=6) == expected
    assert main(["checkpoint", "ls", str(back)]) == main(["checkpoint", "verify", str(back)]) == 0
    assert "converted from" in capsys.readouterr().out
    earlier = convert(run, tmp_path / "earlier", "native", step=25, stream=StringIO())
    assert read_manifest(earlier / "checkpoints/00000000").meta["made_from"]["weights"].endswith("00000025")


@pytest.mark.parametrize("axes", [{}, {"data": 2, "sequence": 2, "model": 2}, {"data": 8}, {"model": 2, "data": 2}])
@pytest.mark.parametrize("to", ["hugging_face", "meta"])
def test_loaded_onto_any_mesh(to, axes, source, tmp_path, mesh):
    there = source if to == "hugging_face" else convert(source, tmp_path / "meta", "meta", shards=2, stream=StringIO())
    weights = open_weights(there).weights
    whole = flatten(load_trained(source).model)
    with jax.set_mesh(mesh(**axes)):
        shapes = jax.eval_shape(lambda: Transformer(LLAMA, key=jax.random.key(0)))
        like = jax.tree.map(lambda leaf: abstract(leaf, NamedSharding, mesh(**axes)), shapes)
        found = flatten(load(weights, like))
    for name, leaf in found.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(whole[name]).astype(np.float32))
        assert leaf.sharding.spec == flatten(like)[name].sharding.spec


def abstract(leaf, sharding, mesh):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(mesh, leaf.sharding.spec))


def test_a_process_reads_what_its_devices_hold(tmp_path, mesh, monkeypatch):
    """Of a mesh whose first two devices are this process's: a half of everything, and nothing twice for both devices."""
    from llama3_jax.checkpoint.formats import load as loading
    from llama3_jax.checkpoint.formats.stored import Stored

    cfg = replace(LLAMA, model_dim=2048, num_heads=8, head_dim=256, ffw_dim=64)
    weights = open_weights(write_hugging_face(tmp_path / "wide", cfg, arrays(cfg))).weights
    read, fill = [], Stored._fill
    monkeypatch.setattr(Stored, "_fill", lambda self, file, first, out: (read.append(out.nbytes), fill(self, file, first, out)))
    grid = mesh(data=2, model=2)
    mine = set(grid.devices.reshape(-1)[:2])  # data 0

    class OfThisProcess(NamedSharding):
        def addressable_devices_indices_map(self, shape):
            return {device: index for device, index in self.devices_indices_map(shape).items() if device in mine}

    with jax.set_mesh(grid):
        shapes = jax.eval_shape(lambda: Transformer(cfg, key=jax.random.key(0)))
    taken = []
    monkeypatch.setattr(loading.jax, "make_array_from_callback", lambda shape, sharding, part: taken.append(
        [part(index) for index in sharding.addressable_devices_indices_map(shape).values()]
    ))  # fmt: skip
    for name, leaf in flatten(shapes).items():
        loading._array(weights, name, abstract(leaf, OfThisProcess, grid))
    held = sum({id(part): part.size for parts in taken for part in parts}.values()) * 2
    norms = (2 * cfg.num_layers + 1) * cfg.model_dim * 2
    assert sum(read) <= held < conversion.num_bytes(weights) / 2 + 2 * norms


def test_a_run_begins_with_the_weights_of_others(tiny, run, tmp_path, capsys):
    hf = convert(run, tmp_path / "hf", "hugging_face", stream=StringIO())
    meta = convert(run, tmp_path / "meta", "meta", shards=2, stream=StringIO())
    settings = [*SHORT, "model.rope_scaling={factor: 4, original_context_length: 32}"]

    def first_loss(name, init_from, *more, tokenizer=f"{run}/tokenizer.model"):
        overrides = [f"name={name}", *settings, f"init_from={init_from}", f"data.tokenizer_path={tokenizer}", *more]
        directory = commands.train(tiny.run_file, overrides, runs=tmp_path).directory
        return next(each for each in read_metrics(directory / "metrics.jsonl") if each.get("step") == 1)["loss"]

    expected = first_loss("a", run)
    capsys.readouterr()
    assert first_loss("b", hf, tokenizer=hf / "tokenizer.json") == first_loss("c", meta) == expected
    assert f"parameters begin as those of {hf} (hugging_face)" in capsys.readouterr().out
    for name, override, words in (
        ("f", "model.ffw_dim=48", r"holds another model than this run's.*\n  ffw_dim: 64 -> 48"),
        ("g", "model.rope_scaling=null", r"trained otherwise than this run.*\n  rope_scaling: {factor: 4"),
        ("h", "model.rope_theta=10000", r"trained otherwise than this run.*\n  rope_theta"),
        ("i", "data.tokenizer_path=null", "another tokenizer than this run's"),
    ):
        more = ["data.max_bytes_per_source=9000"] if "tokenizer" in override else []
        with pytest.raises(ValueError, match=words):
            first_loss(name, hf, override, *more)
    fields = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(fields | {"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="model_type"):
        first_loss("j", hf)

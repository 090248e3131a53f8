"""Files of others that are damaged, mixed or hostile: a clear error, before anything is written, and no code of theirs is run."""

import json
import random
import re
import resource
import shutil
import time
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from foreign import CODES, LLAMA, arrays, config_json, safetensors, write_hugging_face, write_ranks
from hostile import ARCHIVES, DATA, HEADERS, JSON, PICKLES, RAN, SOUND, archive
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.checkpoint.formats.pickled import read_tensors
from llama3_jax.checkpoint.formats.pth import read_archive
from llama3_jax.checkpoint.formats.safetensors import read_header
from llama3_jax.commands.convert import convert
from llama3_jax.commands.weights import open_weights

REFUSALS = (ValueError, FileNotFoundError)
SECONDS, BYTES = 5.0, 600 * 2**20
"""What a refusal may take, of time and of memory beyond what the process has."""


def refused(action):
    """The message of a refusal, which was quick, small, and fit to be read."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(REFUSALS) as refusal:
        action()
    assert time.monotonic() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    assert 20 < len(str(refusal.value)) < 2000, refusal.value
    return str(refusal.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Directories that convert: Hugging Face's in one file and in three, Meta's in two shards."""
    place, named = tmp_path_factory.mktemp("sound"), arrays(LLAMA)
    one = write_hugging_face(place / "one", LLAMA, named)
    write_hugging_face(place / "three", LLAMA, named, files=3)
    convert(one, place / "meta", "meta", shards=2, stream=StringIO())
    return place


@pytest.fixture
def copy(sound, tmp_path):
    """`copy("meta")`: such a directory, to be spoilt."""
    return lambda name: shutil.copytree(sound / name, tmp_path / name)


def nothing_is_written(source, out):
    message = refused(lambda: convert(source, out, "native", stream=StringIO()))
    assert not out.exists() and not list(out.parent.glob("*.partial"))
    return message


def edit(path, **changes):
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value != "absent"}))


CONFIG_EDITS = {
    "another architecture": (dict(model_type="mistral"), 'model_type is "mistral"'),
    "another activation": (dict(hidden_act="gelu"), 'hidden_act is "gelu"; a Llama 3 has "silu"'),
    "biases": (dict(attention_bias=True), "attention_bias is true"),
    "quantized": (dict(quantization_config={"quant_method": "fbgemm_fp8"}), "quantized"),
    "vocabulary": (dict(vocab_size=600), r"embed_tokens.weight is \[556, 32\], config.json says \[600, 32\]"),
    "heads": (dict(num_key_value_heads=4), r"k_proj.weight is \[8, 32\], config.json says \[16, 32\]"),
    "layers": (dict(num_hidden_layers=3), "layers.2.input_layernorm.weight is missing"),
    "fewer layers": (dict(num_hidden_layers=1), "layers.1.input_layernorm.weight is not known"),
    "endless layers": (dict(num_hidden_layers=10**15), "says 1000000000000000 layers"),
    "endless width": (dict(hidden_size=10**18), "config.json says"),
    "no heads": (dict(num_attention_heads=0, head_dim="absent"), "num_heads=0; use 1 or more"),
    "a word": (dict(hidden_size="wide"), 'hidden_size is "wide"; write a whole number'),
    "nothing": (dict(rms_norm_eps="absent"), "rms_norm_eps is null; write a number"),
    "no scaling": (dict(rope_scaling=None), "without the RoPE scaling they were trained with"),
    "no scaling, version 5": (
        dict(rope_scaling="absent", rope_theta="absent", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        "without the RoPE scaling they were trained with",
    ),
    "another scaling": (dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}), 'of type "yarn"; a Llama 3 has llama3'),
    "half a scaling": (dict(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "original_max_position_embeddings is null"),
    "shrinking": (
        dict(rope_scaling={"rope_type": "llama3", "factor": 0.5, "low_freq_factor": 1, "high_freq_factor": 4,
                           "original_max_position_embeddings": 8192}),
        "would shrink the context",
    ),
    "no theta": (dict(rope_theta="absent"), "rope_theta is null"),
    "theta": (dict(rope_theta=-1.0), "rope_theta=-1.0"),
    "tied": (dict(tie_word_embeddings=True), "lm_head.weight differs from it"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIG_EDITS)
def test_a_config_that_does_not_fit(name, copy, tmp_path):
    changes, words = CONFIG_EDITS[name]
    source = copy("one")
    edit(source / "config.json", **changes)
    message = nothing_is_written(source, tmp_path / "out")
    assert re.search(words, message) and "config.json" in message, message


def test_a_config_of_either_version_says_the_same(copy):
    source = copy("one")
    rope = json.loads((source / "config.json").read_text())["rope_scaling"] | {"rope_theta": 500000.0}
    edit(source / "config.json", rope_scaling="absent", rope_theta="absent", rope_parameters=rope)
    assert open_weights(source).weights.config == LLAMA


def test_a_vocabulary_that_does_not_fit(copy, tmp_path):
    source = copy("one")
    write_ranks(source / "tokenizer.model", 310)
    assert "556 vocabulary entries" in nothing_is_written(source, tmp_path / "out")
    (source / "tokenizer.model").unlink()
    assert "no tokenizer at" in nothing_is_written(source, tmp_path / "out")


@pytest.mark.parametrize(
    "which, file, words",
    [
        ("three", "model-00002-of-00003.safetensors", "model-00002-of-00003.safetensors is missing"),
        ("three", "model.safetensors.index.json", "model.safetensors.index.json is missing"),
        ("one", "model.safetensors", "has no model.safetensors and no model.safetensors.index.json"),
        ("one", "config.json", "config.json is missing"),
        ("meta", "consolidated.00.pth", "consolidated.00.pth is missing"),
        ("meta", "consolidated.01.pth", "in its params.json|params.json says"),
        ("meta", "params.json", "params.json is missing"),
    ],
)
def test_a_missing_file_is_named(which, file, words, copy, tmp_path):
    source = copy(which)
    (source / file).unlink()
    message = nothing_is_written(source, tmp_path / "out")
    assert re.search(words, message), message


@pytest.mark.parametrize("which, file", [("three", "model-00002-of-00003.safetensors"), ("meta", "consolidated.01.pth")])
def test_a_download_that_was_cut_off(which, file, copy, tmp_path):
    source = copy(which)
    whole = (source / file).read_bytes()
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        (source / file).write_bytes(whole[:size])
        assert file in nothing_is_written(source, tmp_path / "out"), size
    (source / file).write_bytes(whole + b"\0")
    if which == "three":
        assert "too long" in nothing_is_written(source, tmp_path / "out")


def test_files_of_two_models(copy, tmp_path):
    other = replace(LLAMA, ffw_dim=80)
    foreign = write_hugging_face(tmp_path / "foreign", other, arrays(other), files=3)
    source, name = copy("three"), "model-00002-of-00003.safetensors"
    (source / name).write_bytes((foreign / name).read_bytes())
    assert "says total_size 118592 and its files hold" in nothing_is_written(source, tmp_path / "out")
    edit(source / "model.safetensors.index.json", metadata="absent")
    assert "config.json says" in nothing_is_written(source, tmp_path / "out")
    two = write_hugging_face(tmp_path / "two", LLAMA, arrays(LLAMA), files=2)
    (source / name).write_bytes((two / "model-00001-of-00002.safetensors").read_bytes())
    assert "are mixed" in nothing_is_written(source, tmp_path / "out")
    meta = copy("meta")
    other = write_hugging_face(tmp_path / "seed", LLAMA, arrays(LLAMA, seed=1))
    convert(other, tmp_path / "m", "meta", shards=2, stream=StringIO())
    (meta / "consolidated.01.pth").write_bytes((tmp_path / "m" / "consolidated.01.pth").read_bytes())
    message = nothing_is_written(meta, tmp_path / "out")
    assert "layers.0.attention_norm.weight is not the same in every consolidated" in message
    (meta / "consolidated.extra.pth").write_bytes(b"")
    assert "consolidated.extra.pth" in nothing_is_written(meta, tmp_path / "out")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", CODES)
def test_a_tensor_that_is_not_finite_is_named(wrong, dtype, tmp_path):
    named = arrays(LLAMA, dtype)
    named["model.layers.1.mlp.up_proj.weight"][-1, -1] = wrong
    source = write_hugging_face(tmp_path / "source", LLAMA, named)
    assert "model.layers.1.mlp.up_proj.weight" in nothing_is_written(source, tmp_path / "out")


def test_numbers_that_another_dtype_cannot_hold(tmp_path):
    named = arrays(LLAMA, "float32")
    named["model.norm.weight"][0] = 1e6
    source = write_hugging_face(tmp_path / "source", LLAMA, named)
    message = refused(lambda: convert(source, tmp_path / "out", "native", dtype="float16", stream=StringIO()))
    assert "model.norm.weight" in message and "float16" in message


def test_rotary_frequencies_that_lie_with_the_weights(tmp_path):
    named = arrays(LLAMA) | {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": (500_000.0 ** -np.array([0, 0.5])).astype(np.float32)
        for layer in range(2)
    }
    source = write_hugging_face(tmp_path / "source", LLAMA, named)
    assert open_weights(source).weights.config == LLAMA
    edit(source / "config.json", rope_theta=10_000.0)
    assert "rotary frequencies that are not those of config.json" in nothing_is_written(source, tmp_path / "out")


PARAMS_EDITS = {
    "heads": (dict(n_heads=7), "7 heads do not divide"),
    "feed-forward": (dict(ffn_dim_multiplier=2.0), "feed_forward.w1.weight is"),
    "vision": (dict(vision_chunk_size=448), "vision_chunk_size"),
    "quantized": (dict(quantization_args={"group_size": 256}), "quantization_args"),
    "a word": (dict(dim="wide"), "dim is 'wide'"),
    "endless layers": (dict(n_layers=10**15), "1000000000000000 layers"),
    "endless multiple": (dict(multiple_of=10**30), "feed_forward.w1.weight is"),
    "scaling": (dict(use_scaled_rope="yes"), "use_scaled_rope is 'yes'"),
    "vocabulary": (dict(vocab_size=-1), "vocab_size=-1"),
}


@pytest.mark.parametrize("name", PARAMS_EDITS)
def test_parameters_that_do_not_fit(name, copy, tmp_path):
    changes, words = PARAMS_EDITS[name]
    source = copy("meta")
    edit(source / "params.json", **changes)
    assert words in nothing_is_written(source, tmp_path / "out")


@pytest.mark.parametrize("name", JSON)
def test_a_hostile_index_or_config(name, copy, tmp_path):
    for which, file in (("three", "model.safetensors.index.json"), ("one", "config.json"), ("meta", "params.json")):
        source = copy(which)
        (source / file).write_bytes(JSON[name])
        assert nothing_is_written(source, tmp_path / "out")


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_safetensors_header(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[name])
    assert "model.safetensors" in refused(lambda: read_header(path))


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle(name, tmp_path):
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(archive(PICKLES[name], DATA))
    RAN.clear()
    assert "consolidated.00.pth" in refused(lambda: read_archive(path))
    assert RAN == []


def test_the_sound_archive_that_the_hostile_ones_are_made_from(tmp_path):
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(SOUND)
    assert read_archive(path)["a"].read().tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive(name, tmp_path):
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(ARCHIVES[name])
    assert "consolidated.00.pth" in refused(lambda: read_archive(path))


def test_two_hundred_kinds_of_damage(sound, tmp_path):
    """A byte turned, a piece left out, put in twice or zeroed, where the layout is told: refused, or the numbers are there."""
    rng, refusals = random.Random(0), 0
    files = [sound / "one" / "model.safetensors", sound / "meta" / "consolidated.00.pth"]
    readers = {".safetensors": read_header, ".pth": read_archive}
    for number in range(400):
        file = files[number % 2]
        spoilt, length = bytearray(file.read_bytes()), rng.choice([1, 2, 8, 100])
        ends = (rng.randrange(4000), len(spoilt) - 1 - rng.randrange(4000))
        place = rng.choice(ends if file.suffix == ".pth" else ends[:1])
        piece = spoilt[place : place + length]
        spoilt[place : place + length] = rng.choice([b"", piece * 2, bytes(len(piece)), bytes(rng.randrange(256) for _ in piece)])
        path = tmp_path / f"spoilt{file.suffix}"
        path.write_bytes(spoilt)
        try:
            for stored in readers[file.suffix](path).values():
                assert stored.offset + stored.num_bytes <= len(spoilt)
        except REFUSALS as error:
            refusals += 1
            assert path.name in str(error) and len(str(error)) < 2000
    assert refusals > 200


@given(st.binary(max_size=200))
def test_any_bytes_as_a_pickle(noise):
    try:
        read_tensors(noise, "here")
    except ValueError as error:
        assert str(error).startswith("here")


@given(noise=st.binary(max_size=100), suffix=st.sampled_from([".safetensors", ".pth"]))
def test_any_bytes_as_a_file(noise, suffix, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"noise{suffix}"
    path.write_bytes(noise)
    assert refused(lambda: {".safetensors": read_header, ".pth": read_archive}[suffix](path))


def test_helpers_write_what_is_read(tmp_path):
    named = arrays(LLAMA)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(named))
    assert {name: stored.shape for name, stored in read_header(path).items()} == {name: a.shape for name, a in named.items()}
    assert json.loads(config_json(LLAMA))["model_type"] == "llama"

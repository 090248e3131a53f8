"""From any format into any other and back: the same bytes, the same logits, whatever lies in between."""

import json
from dataclasses import replace
from io import StringIO

import jax
import numpy as np
import pytest
from foreign import CONFIGS, LLAMA, arrays, read_safetensors, same, with_doubled_heads, write_hugging_face
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import documents, packed, placed

from llama3_jax.checkpoint.formats.pth import read_archive
from llama3_jax.checkpoint.formats.safetensors import read_header
from llama3_jax.commands.convert import convert
from llama3_jax.commands.trained import load_trained
from llama3_jax.commands.weights import open_weights
from llama3_jax.model.attention import PackedAttend


def turned(source, out, to, *overrides, **how):
    return convert(source, out, to, overrides, stream=StringIO(), **how)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_through_all_formats_gives_the_same_bytes(name, tmp_path):
    cfg, place = CONFIGS[name], iter(tmp_path / f"{number}" for number in range(20))
    named = arrays(cfg)
    start = write_hugging_face(next(place), cfg, named, files=3)
    native = turned(start, next(place), "native")
    meta = turned(native, next(place), "meta", shards=2)
    whole = turned(meta, next(place), "meta")
    again = turned(whole, next(place), "native")
    end = turned(again, next(place), "hugging_face")
    assert same(read_safetensors(end), named)
    assert same(read_safetensors(turned(meta, next(place), "hugging_face", shards=4)), named)
    assert {open_weights(each).weights.config for each in (start, native, meta, whole, again, end)} == {cfg}
    back = turned(end, next(place), "meta", shards=2)
    assert [path.read_bytes() for path in sorted(back.iterdir())] == [path.read_bytes() for path in sorted(meta.iterdir())]


@pytest.mark.parametrize("shards", [8, 16])
def test_as_many_shards_as_the_large_releases_have(shards, tmp_path):
    """70B lies in 8 files; 405B in 8, or in 16 with each of its 8 key/value heads twice."""
    cfg = replace(LLAMA, num_heads=16, num_kv_heads=8, model_dim=64, vocab_size=304 + 256)
    named = arrays(cfg)
    meta = turned(write_hugging_face(tmp_path / "start", cfg, named, files=5), tmp_path / "meta", "meta", shards=shards)
    assert len(list(meta.glob("consolidated.*.pth"))) == shards
    last = read_archive(meta / f"consolidated.{shards - 1:02d}.pth")
    assert last["layers.1.attention.wk.weight"].shape == (cfg.head_dim, 64) and last["norm.weight"].shape == (64,)
    keys = named["model.layers.1.self_attn.k_proj.weight"][-cfg.head_dim :].reshape(2, 2, 64)  # the last head, halves
    assert last["layers.1.attention.wk.weight"].read().tobytes() == keys.swapaxes(0, 1).tobytes(), "its pairs are side by side"
    assert last["layers.1.feed_forward.w2.weight"].read().tobytes() == np.ascontiguousarray(
        named["model.layers.1.mlp.down_proj.weight"][:, -(cfg.ffw_dim // shards) :]
    ).tobytes()
    assert same(read_safetensors(turned(meta, tmp_path / "end", "hugging_face")), named)


@st.composite
def architectures(draw):
    heads, kv_heads = draw(st.sampled_from([(4, 4), (4, 2), (6, 3), (8, 1)]))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    return replace(
        LLAMA, num_layers=draw(st.integers(1, 3)), num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim,
        model_dim=heads * head_dim, ffw_dim=draw(st.integers(1, 70)), tie_embeddings=draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=12)
@given(cfg=architectures(), dtype=st.sampled_from(["bfloat16", "float16", "float32"]), files=st.integers(1, 4))
def test_any_architecture_survives(cfg, dtype, files, tmp_path_factory):
    place = tmp_path_factory.mktemp("any")
    named = arrays(cfg, dtype)
    start = write_hugging_face(place / "start", cfg, named, files=files)
    meta = turned(start, place / "meta", "meta")
    native = turned(meta, place / "native", "native")
    assert same(read_safetensors(turned(native, place / "end", "hugging_face", shards=files)), named)


def test_heads_that_are_stored_twice(tmp_path):
    """As in the 405B for sixteen devices: read as they are, as once, and written twice where there are more shards than heads."""
    named, doubled = arrays(LLAMA), replace(LLAMA, num_kv_heads=4)
    twice = write_hugging_face(tmp_path / "twice", doubled, with_doubled_heads(named, LLAMA))
    assert open_weights(turned(twice, tmp_path / "kept", "native")).weights.config == doubled
    once = turned(twice, tmp_path / "once", "native", kv_heads=2)
    assert same(read_safetensors(turned(once, tmp_path / "hf", "hugging_face")), named)
    assert same(read_safetensors(turned(once, tmp_path / "again", "hugging_face", kv_heads=4)), read_safetensors(twice))
    meta = turned(once, tmp_path / "meta", "meta", shards=4)
    params = json.loads((meta / "params.json").read_text())
    shard = read_archive(meta / "consolidated.03.pth")
    assert params["n_kv_heads"] == 2 and shard["layers.0.attention.wk.weight"].shape == (LLAMA.head_dim, LLAMA.model_dim)
    assert same(read_safetensors(turned(meta, tmp_path / "from_meta", "hugging_face")), named)
    params["n_kv_heads"] = 4  # as the release for sixteen devices says it
    (meta / "params.json").write_text(json.dumps(params))
    assert same(read_safetensors(turned(meta, tmp_path / "said", "hugging_face")), read_safetensors(twice))
    different = write_hugging_face(tmp_path / "different", doubled, arrays(doubled))
    with pytest.raises(ValueError, match="are not 2 stored 2 times each; keep them all: --kv-heads 4"):
        turned(different, tmp_path / "no", "native", kv_heads=2)
    assert not (tmp_path / "no").exists() and not (tmp_path / "no.partial").exists()


def test_another_dtype_only_where_it_is_asked_for(tmp_path):
    named = arrays(LLAMA, "float32")
    start = write_hugging_face(tmp_path / "start", LLAMA, named)
    low = turned(start, tmp_path / "low", "hugging_face", dtype="bfloat16")
    expected = {name: array.astype("bfloat16") for name, array in named.items()}
    assert same(read_safetensors(low), expected)
    assert json.loads((low / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert same(read_safetensors(turned(low, tmp_path / "high", "hugging_face", dtype="float32")), {
        name: array.astype("float32") for name, array in expected.items()
    })  # fmt: skip


def test_files_are_those_that_loaders_expect(tmp_path):
    """Names, index and alignment of safetensors; Meta's names, with no tensor of one file in another."""
    start = write_hugging_face(tmp_path / "start", LLAMA, arrays(LLAMA))
    out = turned(start, tmp_path / "hf", "hugging_face", shards=3)
    names = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    held = {name: read_header(out / name) for name in names}
    assert sorted(path.name for path in out.glob("*.safetensors")) == names
    assert index["weight_map"] == {tensor: name for name, header in held.items() for tensor in header}
    sizes = [(out / name).stat().st_size for name in names]
    assert max(sizes) < 1.5 * min(sizes), "about the same size"
    assert all(stored.offset % 2 == 0 for header in held.values() for stored in header.values())
    single = turned(start, tmp_path / "single", "hugging_face")
    assert (single / "model.safetensors").is_file() and not (single / "model.safetensors.index.json").exists()
    meta = turned(start, tmp_path / "meta", "meta", shards=2)
    assert sorted(path.name for path in meta.iterdir()) == [
        "consolidated.00.pth", "consolidated.01.pth", "llama3_jax.json", "params.json", "tokenizer.model",
    ]  # fmt: skip


@jax.jit
def logits(model, batch):
    x_BSD = model.embed(batch.tokens, "float32")
    x_BSD, _ = model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg))
    return model.logits(x_BSD)


@pytest.mark.parametrize("name", ["3.1", "3.2, tied"])
def test_logits_are_the_same_after_each_hop(name, tmp_path):
    cfg = CONFIGS[name]
    named = arrays(cfg, "float32")
    start = write_hugging_face(tmp_path / "start", cfg, named)
    hops = [start]
    for number, (to, shards) in enumerate([("native", None), ("meta", 2), ("hugging_face", 2), ("native", None)]):
        hops.append(turned(hops[-1], tmp_path / f"{number}", to, shards=shards))
    found = []
    for hop in hops:
        trained = load_trained(hop)
        with jax.set_mesh(trained.mesh):
            found.append(np.asarray(logits(trained.model, placed(packed([documents(cfg, 9, 7)], 16)))))
    for each in found[1:]:
        np.testing.assert_allclose(each, found[0], atol=1e-5, rtol=0)

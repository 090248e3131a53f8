"""Weights that transformers and PyTorch wrote, and what they make of ours: the same tensors, logits and text."""

import json

import jax
import numpy as np
import pytest
from foreign import LLAMA, arrays, read_safetensors, same, write_hugging_face, write_ranks
from tiny_model import documents, packed, placed

from llama3_jax.checkpoint.formats.hugging_face import read_config
from llama3_jax.checkpoint.formats.pth import read_archive
from llama3_jax.commands.convert import convert
from llama3_jax.commands.generate import generate
from llama3_jax.commands.trained import load_trained
from llama3_jax.commands.weights import open_weights
from llama3_jax.generate.settings import Sampling
from llama3_jax.model.attention import PackedAttend

torch = pytest.importorskip("torch", reason="PyTorch reads and writes .pth")
transformers = pytest.importorskip("transformers", reason="transformers reads and writes its own format")
pytestmark = [pytest.mark.oracle]


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def theirs(kind, directory, *, max_shard_size="5GB"):
    """A model of transformers' own making, saved by it: untied with scaling, tied with scaling, or without scaling."""
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    if kind != "plain":
        rope |= {"rope_type": "llama3", "factor": 32.0 if kind == "tied" else 8.0, "low_freq_factor": 1.0,
                 "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=556, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=8192 if kind == "plain" else 131_072, rope_parameters=rope,
            rms_norm_eps=1e-5, tie_word_embeddings=kind == "tied", initializer_range=0.3,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_(1, 0.3)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    write_ranks(directory / "tokenizer.model")
    return model


@jax.jit
def logits(model, batch):
    x_BSD = model.embed(batch.tokens, "float32")
    x_BSD, _ = model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg))
    return model.logits(x_BSD)


@pytest.mark.parametrize("kind, size", [("scaled", "60KB"), ("tied", "5GB"), ("plain", "5GB")])
def test_logits_of_transformers_and_of_ours_after_each_hop(kind, size, tmp_path):
    model = theirs(kind, tmp_path / "0", max_shard_size=size)
    (document,) = documents(LLAMA, 16)
    expected = model(torch.from_numpy(document[None]).long()).logits.detach().numpy()[0]
    for number, (to, shards) in enumerate([("native", None), ("meta", 2), ("native", None), ("hugging_face", 3)]):
        convert(tmp_path / str(number), tmp_path / str(number + 1), to, shards=shards)
    for hop in range(5):
        trained = load_trained(tmp_path / str(hop))
        with jax.set_mesh(trained.mesh):
            found = np.asarray(logits(trained.model, placed(packed([[document]], 16))))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert same(read_safetensors(tmp_path / "4"), read_safetensors(tmp_path / "0"))
    again, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "4", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(again(torch.from_numpy(document[None]).long()).logits.detach().numpy()[0], expected)
    assert again.config.rope_parameters == model.config.rope_parameters
    assert again.config.max_position_embeddings == model.config.max_position_embeddings


def test_their_config_of_version_5_and_ours_are_read_alike(tmp_path):
    theirs("scaled", tmp_path / "theirs")
    config = convert(tmp_path / "theirs", tmp_path / "ours", "hugging_face") / "config.json"
    assert "rope_parameters" in (tmp_path / "theirs" / "config.json").read_text()
    assert "rope_parameters" not in config.read_text(), "the form that version 4 and vLLM read too"
    assert read_config(config) == read_config(tmp_path / "theirs" / "config.json") == LLAMA


def test_the_same_text(tmp_path):
    """Greedily, by our model in our format and by transformers from what we wrote: weights, config, tokenizer and stops."""
    theirs("scaled", tmp_path / "0")
    native = convert(tmp_path / "0", tmp_path / "native", "native")
    out = convert(native, tmp_path / "out", "hugging_face")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == sorted(open_weights(out).tokenizer.stop_ids)
    assert (model.generation_config.temperature, model.generation_config.top_p) == (0.6, 0.9)
    for prompt in ("Hello", "<|eot_id|> is text, \u00e9 too", ""):
        (ours,) = generate(native, [prompt], max_new_tokens=20, sampling=Sampling(temperature=0))
        (again,) = generate(out, [prompt], max_new_tokens=20, sampling=Sampling(temperature=0))
        ids = tokenizer(prompt, return_tensors="pt", split_special_tokens=True)
        new = model.generate(**ids, do_sample=False, max_new_tokens=20, pad_token_id=0)[0, ids["input_ids"].shape[1] :].tolist()
        stops = [place for place, token in enumerate(new) if token in model.generation_config.eos_token_id]
        assert again == ours == open_weights(out).tokenizer.decode(new[: min(stops, default=len(new))])


def test_archives_of_pytorch_and_ours(tmp_path):
    named = {name: torch.from_numpy(array.astype(np.float32)).bfloat16() for name, array in arrays(LLAMA).items()}
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    torch.save(named | {"view": whole[1:3], "parameter": torch.nn.Parameter(whole)}, tmp_path / "theirs.pth")
    read = read_archive(tmp_path / "theirs.pth")
    assert read["view"].read().tolist() == whole[1:3].tolist() and read["parameter"].read().tolist() == whole.tolist()
    for name, tensor in named.items():
        assert read[name].read().tobytes() == tensor.view(torch.int16).numpy().tobytes()
    start = write_hugging_face(tmp_path / "start", LLAMA, arrays(LLAMA))
    meta = convert(start, tmp_path / "meta", "meta", shards=2)
    shards = [torch.load(meta / f"consolidated.{n:02d}.pth", weights_only=True, mmap=True) for n in (0, 1)]
    gate = torch.cat([shard["layers.1.feed_forward.w1.weight"] for shard in shards])
    assert torch.equal(gate, named["model.layers.1.mlp.gate_proj.weight"])
    down = torch.cat([shard["layers.1.feed_forward.w2.weight"] for shard in shards], dim=1)
    assert torch.equal(down, named["model.layers.1.mlp.down_proj.weight"])
    assert all(tensor.data_ptr() % 64 == 0 for tensor in torch.load(meta / "consolidated.00.pth", mmap=True).values())
    torch.save(whole.T.contiguous().T, tmp_path / "no_table.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        read_archive(tmp_path / "no_table.pth")
    torch.save({"turned": whole.T}, tmp_path / "turned.pth")
    with pytest.raises(ValueError, match="is a view with strides .*contiguous"):
        read_archive(tmp_path / "turned.pth")
    torch.save(named, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="saved again by a newer PyTorch"):
        read_archive(tmp_path / "old.pth")


def test_metas_own_code_reads_what_we_write(tmp_path):
    """Their `ModelArgs` from our params.json, their `Transformer` with our tensors: the logits of transformers."""
    reference = pytest.importorskip("llama_models.llama3.model", reason="Meta's model is in llama_models")
    parallel = pytest.importorskip("fairscale.nn.model_parallel.initialize", reason="Meta's model needs fairscale")
    model = theirs("scaled", tmp_path / "0")
    meta = convert(tmp_path / "0", tmp_path / "meta", "meta")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel.initialize_model_parallel(1)
    try:
        args = reference.ModelArgs(**json.loads((meta / "params.json").read_text()), max_seq_len=32, max_batch_size=1)
        metas = reference.Transformer(args)
        metas.load_state_dict(torch.load(meta / "consolidated.00.pth", weights_only=True), strict=True)
        tokens = torch.from_numpy(documents(LLAMA, 16)[0][None]).long()
        expected = model(tokens).logits.detach().numpy()
        np.testing.assert_allclose(metas(tokens, 0).numpy(), expected, atol=2e-5, rtol=2e-5)
    finally:
        parallel.destroy_model_parallel()
        torch.distributed.destroy_process_group()

"""What a conversion takes beside the files: two of the largest tensors and a gibibyte at most, whatever the model."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from llama3_jax.checkpoint.formats.hugging_face import HuggingFaceFiles, config_of
from llama3_jax.commands.weights import open_weights
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.train_bpe import save_ranks

GIB = 2**30
LLAMA_8B = ModelConfig(
    num_layers=32, model_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128, ffw_dim=14_336, vocab_size=128_256,
    context_length=131_072, rope_scaling=RopeScaling(factor=8),
)  # fmt: skip
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def sparse(directory, cfg, dtype=ml_dtypes.bfloat16):
    """A directory of Hugging Face's whose tensors are holes in its files: zeros that take no disk."""

    class Zeros:
        name, config = "zeros", cfg

        def dtype(self, tensor):
            return np.dtype(dtype)

    directory.mkdir()
    files = HuggingFaceFiles(directory, Zeros(), None)
    files.begin()
    files.finish([])
    (directory / "config.json").write_text(json.dumps(config_of(cfg, "bfloat16", {})))
    save_ranks(directory / "tokenizer.model", vocabulary(cfg.vocab_size - 256))
    return directory


def vocabulary(number):
    return [bytes([byte]) for byte in range(256)] + [b"%d" % rank for rank in range(1000, 1000 + number - 256)]


def peak(*arguments):
    """Bytes that `llama3 convert` had at most."""
    command = [sys.executable, "-c", PEAK, sys.executable, "-m", "llama3_jax", "convert", *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    status, size = map(int, found.stdout.split())
    assert status == 0, found.stderr
    return size


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_billion_parameters(tmp_path):
    """Of 16 GB the largest tensor has 1.05: from Hugging Face's format into each, and from each into it."""
    if shutil.disk_usage(tmp_path).free < 40 * GIB:
        pytest.skip("the disk has not 40 GiB free")
    source = sparse(tmp_path / "source", LLAMA_8B)
    allowed = 2 * LLAMA_8B.vocab_size * LLAMA_8B.model_dim * 2 + GIB
    found = {}
    for to, how in (("native", ()), ("meta", ("--shards", "8")), ("hugging_face", ())):
        found[f"into {to}"] = peak(source, tmp_path / to, "--to", to, *how)
        if to != "hugging_face":
            found[f"from {to}"] = peak(tmp_path / to, tmp_path / "back", "--to", "hugging_face")
            shutil.rmtree(tmp_path / "back")
        shutil.rmtree(tmp_path / to)
    print({name: f"{size / GIB:.2f} GiB" for name, size in found.items()})
    assert max(found.values()) < allowed, found


SAVE = """
import sys
from pathlib import Path
import jax
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.config.schema import from_mapping
from llama3_jax.config.tree import to_mapping
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import make_mesh
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.tokenizer.bpe import Tokenizer
import json
cfg = from_mapping(ModelConfig, json.loads(sys.argv[2]))
directory = Path(sys.argv[1])
with jax.set_mesh(make_mesh(MeshConfig())):
    model = jax.jit(lambda key: Transformer(cfg, key=key))(jax.random.key(0))
store = CheckpointStore(directory / "checkpoints")
meta = {"model": to_mapping(cfg), "tokenizer": Tokenizer.load(directory / "tokenizer.model").fingerprint, "averaged": 0}
store.save(1, {"state": {"model": model}}, meta)
store.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_of_a_run_is_read_layer_by_layer(tmp_path):
    """One that training saved, from one device: its stacked arrays of 0.8 GB are stored in pieces of a layer."""
    from llama3_jax.config.tree import to_mapping

    cfg = replace(LLAMA_8B, num_layers=48, model_dim=1024, num_heads=8, num_kv_heads=8, ffw_dim=4096, vocab_size=1024)
    save_ranks(tmp_path / "tokenizer.model", vocabulary(cfg.vocab_size - 256))
    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path), json.dumps(to_mapping(cfg))], check=True)
    size = peak(tmp_path, tmp_path / "out", "--to", "hugging_face")
    print(f"{size / GIB:.2f} GiB for {cfg.num_parameters * 4 / GIB:.2f}")
    assert size < 0.8 * GIB
    assert open_weights(tmp_path / "out").weights.config.num_layers == 48
    assert Tokenizer.load(tmp_path / "out" / "tokenizer.json").vocab_size == 1024

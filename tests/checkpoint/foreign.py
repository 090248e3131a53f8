"""Weights as others write them, put together here from NumPy arrays without any of the code that reads them."""

import base64
import json
import struct
from dataclasses import replace

import ml_dtypes
import numpy as np

from llama3_jax.model.config import ModelConfig, RopeScaling

NUM_RANKS = 300
SCALING = RopeScaling(factor=8)
LLAMA = ModelConfig(
    num_layers=2, model_dim=32, num_heads=8, num_kv_heads=2, head_dim=4, ffw_dim=96, vocab_size=NUM_RANKS + 256,
    context_length=131_072, rope_scaling=SCALING,
)  # fmt: skip
CONFIGS = {
    "3.1": LLAMA,
    "3": replace(LLAMA, rope_scaling=None, context_length=8192),
    "3.2, tied": replace(LLAMA, rope_scaling=RopeScaling(factor=32), tie_embeddings=True),
    "every head its own": replace(LLAMA, num_kv_heads=8, norm_eps=1e-6, rope_theta=10_000.0),
}
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def arrays(cfg, dtype="bfloat16", seed=0):
    """Random tensors of a model under Hugging Face's names: a matrix is [outputs, inputs]."""
    rng, D, F, V = np.random.default_rng(seed), cfg.model_dim, cfg.ffw_dim, cfg.vocab_size
    q, k = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
    shapes = {"model.embed_tokens.weight": (V, D)}
    for layer in range(cfg.num_layers):
        inside = {
            "input_layernorm": (D,), "self_attn.q_proj": (q, D), "self_attn.k_proj": (k, D), "self_attn.v_proj": (k, D),
            "self_attn.o_proj": (D, q), "post_attention_layernorm": (D,), "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    shapes["model.norm.weight"] = (D,)
    if not cfg.tie_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return {
        name: (rng.normal(len(shape) == 1, 0.3, shape)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for name, shape in shapes.items()
    }


def safetensors(named):
    """The bytes of a file."""
    header, position, data = {}, 0, b""
    for name, array in named.items():
        end = position + array.nbytes
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [position, end]}
        data, position = data + array.tobytes(), end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def config_json(cfg, **changed):
    """As transformers 4 writes it."""
    rope = cfg.rope_scaling and {
        "factor": cfg.rope_scaling.factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": cfg.rope_scaling.original_context_length, "rope_type": "llama3",
    }  # fmt: skip
    fields = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": cfg.model_dim, "hidden_act": "silu",
        "intermediate_size": cfg.ffw_dim, "num_hidden_layers": cfg.num_layers, "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads, "head_dim": cfg.head_dim, "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length, "rope_theta": cfg.rope_theta, "rope_scaling": rope,
        "rms_norm_eps": cfg.norm_eps, "tie_word_embeddings": cfg.tie_embeddings, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    fields |= changed
    return json.dumps({key: value for key, value in fields.items() if value != "absent"})


def tokens(number=NUM_RANKS):
    """A vocabulary: every byte, then pairs of letters."""
    pairs = [bytes([one, two]) for one in range(97, 123) for two in range(97, 123)]
    return [bytes([byte]) for byte in range(256)] + pairs[: number - 256]


def write_ranks(path, number=NUM_RANKS):
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens(number))))


def write_hugging_face(directory, cfg, named, *, files=1, **changed):
    """A directory as `save_pretrained` leaves it, with Meta's rank file beside. Returns it."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(config_json(cfg, **changed))
    write_ranks(directory / "tokenizer.model", cfg.vocab_size - 256)
    if files == 1:
        (directory / "model.safetensors").write_bytes(safetensors(named))
        return directory
    names, places = list(named), {}
    for number in range(files):
        mine, file = names[number::files], f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        (directory / file).write_bytes(safetensors({name: named[name] for name in mine}))
        places |= dict.fromkeys(mine, file)
    total = sum(array.nbytes for array in named.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def read_safetensors(directory):
    """All tensors of a directory's files."""
    named, dtypes = {}, {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in CODES.items()}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, each in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + offset for offset in each["data_offsets"])
                named[name] = np.frombuffer(data[begin:end], dtypes[each["dtype"]]).reshape(each["shape"])
    return named


def with_doubled_heads(named, cfg):
    """Each key/value head twice in a row, as files for twice as many devices hold it."""
    def twice(array):
        return np.repeat(array.reshape(cfg.num_kv_heads, cfg.head_dim, -1), 2, axis=0).reshape(-1, array.shape[-1])

    return {name: twice(array) if ".k_proj." in name or ".v_proj." in name else array for name, array in named.items()}


def same(one, other):
    """Whether two sets of tensors have the same names, dtypes and bytes."""
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes()) == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )

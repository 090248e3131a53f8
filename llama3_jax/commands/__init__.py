"""The `llama3` command, and the same as functions for notebooks.

from llama3_jax import commands
result = commands.train("quickstart", ["name=mine"], data=["notes/"])
commands.generate(result.directory, ["Once upon a time"])
commands.export_weights(result.directory)
commands.convert(result.directory, "for-vllm", "hugging_face", dtype="bfloat16")
commands.bench_train("bench_packed")
commands.bench_data()
"""

from llama3_jax.commands.bench import bench_train
from llama3_jax.commands.bench_attention import bench_attention
from llama3_jax.commands.bench_data import bench_data
from llama3_jax.commands.bench_loss import bench_loss
from llama3_jax.commands.bench_tokenizer import bench_tokenizer
from llama3_jax.commands.convert import convert
from llama3_jax.commands.export import average_checkpoints, export_weights
from llama3_jax.commands.generate import generate
from llama3_jax.commands.train import compose, train

__all__ = [
    "average_checkpoints", "bench_attention", "bench_data", "bench_loss", "bench_tokenizer", "bench_train", "compose", "convert",
    "export_weights", "generate", "train",
]  # fmt: skip

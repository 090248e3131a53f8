"""The `llama3` command, and the same as functions for notebooks.

from llama3_jax import commands
result = commands.train("quickstart", ["name=mine"], data=["notes/"])
commands.generate(result.directory, ["Once upon a time"])
"""

from llama3_jax.commands.generate import generate
from llama3_jax.commands.train import compose, train

__all__ = ["compose", "generate", "train"]

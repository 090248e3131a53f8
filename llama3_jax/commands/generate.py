"""`llama3 generate`: text from the model of a run directory, or from weights in any format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama3_jax.generate.settings import Sampling
from llama3_jax.tokenizer.object_store import located

NEW_TOKENS = 128
"""Tokens to generate where nothing is said and the context has room."""


def generate(
    run_directory: str | Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    step: int | None = None,
) -> list[str]:
    """The continuation of each prompt by the newest checkpoint (or the one of `step`), its average if it has one; or by
    weights in Hugging Face's or Meta's format.

    Raises: FileNotFoundError if there is no such run or checkpoint; ValueError for a damaged or foreign checkpoint, an
    empty list of prompts, or a prompt longer than the context.
    """
    if isinstance(prompts, str):
        raise ValueError("prompts is a list; write [...] around a single one")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}; use 0 <= seed < 2**32")
    if not prompts:
        raise ValueError("no prompt was given; use --prompt TEXT or --prompt-file FILE (prompts=[...] in Python)")
    directory = located(run_directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no directory at {directory}; give a run directory, or one of weights")

    import jax

    from llama3_jax.commands.trained import load_trained
    from llama3_jax.generate.generate import generate as generate_tokens

    trained = load_trained(directory, step=step)
    tokenizer = trained.tokenizer
    encoded = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    room = trained.model.cfg.longest_sequence - max(map(len, encoded))
    with jax.set_mesh(trained.mesh):
        texts = generate_tokens(
            trained.model, encoded, max_new_tokens=max(1, min(NEW_TOKENS, room)) if max_new_tokens is None else max_new_tokens,
            stop_ids=tokenizer.stop_ids, sampling=sampling, seed=seed, precision=trained.precision,
        )  # fmt: skip
    return [tokenizer.decode(text) for text in texts]


def read_prompt(path: str | Path) -> str:
    """A prompt file as text. Raises: FileNotFoundError; ValueError if it is not UTF-8."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no prompt file at {path}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None

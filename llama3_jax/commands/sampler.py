"""Samples of a model in training: how it continues the beginning of a held-out document of each source."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from llama3_jax.commands.data import RunData
from llama3_jax.commands.run import TrainRun
from llama3_jax.generate.generate import generate
from llama3_jax.generate.replica import one_replica
from llama3_jax.model.transformer import Transformer


class Sampler:
    def __init__(self, run: TrainRun, data: RunData):
        self._run = run
        self._tokenizer = data.tokenizer
        self._prompts = {name: self._prompt(stream) for name, stream in data.held_out.items()}

    def __call__(self, model: Transformer, mesh: Mesh) -> dict[str, tuple[str, str]]:
        """Source -> (prompt, continuation). The same model gives the same text.

        In a job of several processes all call this and the first one gets them; none, where its devices hold no replica.
        """
        if (replica := one_replica(model, mesh)) is None:
            return {}
        model, mesh = replica
        with jax.set_mesh(mesh):
            texts = generate(
                model, list(self._prompts.values()), max_new_tokens=self._run.samples.max_new_tokens,
                stop_ids=self._tokenizer.stop_ids, sampling=self._run.samples.sampling, seed=self._run.seed,
                precision=self._run.precision,
            )  # fmt: skip
        return {
            name: (self._tokenizer.decode(prompt[1:]), self._tokenizer.decode(text))
            for (name, prompt), text in zip(self._prompts.items(), texts, strict=True)
        }

    def _prompt(self, stream) -> list[int]:
        """The first tokens of the first document that is longer than the prompt, its BOS included."""
        wanted, position = self._run.samples.prompt_tokens, 0
        while position < stream.num_tokens:
            pieces = stream.read(position, min(stream.num_tokens - position, 1 << 16))
            for piece in pieces:
                if piece.size > wanted:
                    return piece[:wanted].tolist()
            position += sum(piece.size for piece in pieces)
        return stream.read(0, wanted)[0].tolist()[:-1] or [self._tokenizer.bos_id]


def shown(prompt: str, text: str) -> str:
    """A sample as people read it."""
    return f"{prompt} ⟶ {text}"

"""The other yardstick: Hugging Face transformers on torch, eager or through torch.compile, where they are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import time

import jax
import numpy as np

from llama3_jax.batches.batch import Batch
from llama3_jax.checkpoint.formats.hugging_face import config_of
from llama3_jax.checkpoint.formats.table import Tensor, tensors
from llama3_jax.checkpoint.tree import flatten
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.train.adamw import AdamW


def installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


class TorchStep:
    """Scaled dot product attention, causal where a row is one document and else under the mask of its documents;
    float32 parameters, autocast below that."""

    def __init__(self, model: Transformer, optimizer: AdamW, rate: float, precision: Precision, *, compiled: bool):
        import torch
        import transformers

        self.name = "transformers + torch" + (".compile" if compiled else "")
        self.compile_s, self.peak_bytes = None, None
        self._compiled, self._seconds = compiled, []
        self._torch, self._clip = torch, optimizer.clip_norm
        self._device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
        self._low = precision is Precision.BFLOAT16
        transformers.logging.set_verbosity_error()
        self._model = hugging_face(model, "sdpa").to(self._device)
        self._forward = torch.compile(self._model) if compiled else self._model
        scales = [p for p in self._model.parameters() if p.ndim == 1]
        matrices = [p for p in self._model.parameters() if p.ndim > 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": optimizer.weight_decay}, {"params": scales, "weight_decay": 0.0}],
            lr=rate, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon, fused=True,
        )  # fmt: skip

    def step(self, batch: Batch) -> float:
        torch, started = self._torch, time.perf_counter()

        def tensor(x: np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(x[0])).to(self._device)

        tokens, targets, weight, segment, positions = (
            tensor(x) for x in (batch.tokens, batch.targets, batch.loss_weight, batch.segment_ids, batch.positions)
        )
        rows = {}  # by default a row is one document
        if segment.max() > 1:
            causal = torch.ones(*[tokens.shape[1]] * 2, dtype=torch.bool, device=self._device).tril()
            mask = ((segment[:, :, None] == segment[:, None, :]) & causal)[:, None]
            rows = {"attention_mask": mask, "position_ids": positions.long()}
        low = torch.autocast(self._device, torch.bfloat16) if self._low else contextlib.nullcontext()
        with low:
            logits = self._forward(input_ids=tokens.long(), use_cache=False, **rows).logits
        nll = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.long().flatten(), reduction="none")
        loss = (nll * weight.flatten()).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        self._seconds.append(time.perf_counter() - started)
        if self._compiled and len(self._seconds) == 2:
            self.compile_s = self._seconds[0] - self._seconds[1]
        return value


def hugging_face(model: Transformer, attention: str):
    """`LlamaForCausalLM` in float32 with the same parameters. Args: attention: their `attn_implementation`."""
    import torch
    import transformers

    cfg = model.cfg
    config = transformers.LlamaConfig(**config_of(cfg, "float32", {}), attn_implementation=attention)
    theirs = transformers.LlamaForCausalLM(config).float()
    state = {name: torch.from_numpy(value.copy()) for name, value in in_their_layout(model).items()}
    if cfg.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    return theirs


def in_their_layout(tree: Transformer) -> dict[str, np.ndarray]:
    """Parameters, or their gradients, under Hugging Face's names: a matrix is [out, in], and each layer is apart."""
    named = flatten(tree)

    def ours(tensor: Tensor) -> np.ndarray:
        stacked = named[tensor.weight.ours]
        return np.asarray(stacked if tensor.layer is None else stacked[tensor.layer])

    return {tensor.hugging_face: tensor.to_theirs(ours(tensor)) for tensor in tensors(tree.cfg)}

"""The other yardstick: Hugging Face transformers on torch, eager or through torch.compile, where they are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import time

import jax
import numpy as np

from llama3_jax.batches.batch import Batch
from llama3_jax.model.config import ModelConfig
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
        self._model = transformers.LlamaForCausalLM(_their_config(model.cfg)).to(self._device, torch.float32)
        self._model.load_state_dict(
            {name: torch.from_numpy(value) for name, value in _their_weights(model).items()}, strict=False
        )
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


def _their_config(cfg: ModelConfig):
    import transformers

    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if (scaling := cfg.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }  # fmt: skip
    return transformers.LlamaConfig(
        vocab_size=cfg.vocab_size, hidden_size=cfg.model_dim, intermediate_size=cfg.ffw_dim,
        num_hidden_layers=cfg.num_layers, num_attention_heads=cfg.num_heads, num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim, max_position_embeddings=cfg.longest_sequence, rms_norm_eps=cfg.norm_eps,
        rope_parameters=rope, tie_word_embeddings=cfg.tie_embeddings, attn_implementation="sdpa",
    )  # fmt: skip


def _their_weights(model: Transformer) -> dict[str, np.ndarray]:
    """Hugging Face keeps a matrix as [out, in], one layer at a time."""

    attention, ffw = model.blocks.attention, model.blocks.feed_forward
    named = {"model.embed_tokens.weight": np.array(model.embedding[...]), "model.norm.weight": np.array(model.final_norm[...])}
    if model.head is not None:
        named["lm_head.weight"] = np.array(np.asarray(model.head[...]).T)
    for layer in range(model.cfg.num_layers):
        of = f"model.layers.{layer}."
        named |= {
            of + "input_layernorm.weight": np.array(model.blocks.attention_norm[layer]),
            of + "post_attention_layernorm.weight": np.array(model.blocks.ffw_norm[layer]),
        }
        for name, leaf in {"q": attention.w_q, "k": attention.w_k, "v": attention.w_v}.items():
            named[f"{of}self_attn.{name}_proj.weight"] = np.array(np.asarray(leaf[layer]).reshape(model.cfg.model_dim, -1).T)
        o = np.asarray(attention.w_o[layer])
        named[of + "self_attn.o_proj.weight"] = np.array(o.reshape(-1, model.cfg.model_dim).T)
        for name, leaf in {"gate": ffw.w_gate, "up": ffw.w_up, "down": ffw.w_down}.items():
            named[f"{of}mlp.{name}_proj.weight"] = np.array(np.asarray(leaf[layer]).T)
    return named

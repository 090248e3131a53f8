"""The other yardstick: Hugging Face transformers on torch, eager or through torch.compile, where they are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import time

import jax
import numpy as np

from llama3_jax.batches.batch import Batch
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
    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if (scaling := cfg.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }  # fmt: skip
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=cfg.vocab_size, hidden_size=cfg.model_dim, intermediate_size=cfg.ffw_dim,
            num_hidden_layers=cfg.num_layers, num_attention_heads=cfg.num_heads, num_key_value_heads=cfg.num_kv_heads,
            head_dim=cfg.head_dim, max_position_embeddings=cfg.longest_sequence, rms_norm_eps=cfg.norm_eps,
            rope_parameters=rope, tie_word_embeddings=cfg.tie_embeddings, attn_implementation=attention,
        )
    ).float()  # fmt: skip
    state = {name: torch.from_numpy(value.copy()) for name, value in in_their_layout(model).items()}
    if cfg.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    return theirs


def in_their_layout(tree: Transformer) -> dict[str, np.ndarray]:
    """Parameters, or their gradients, under Hugging Face's names: a matrix is [out, in], and each layer is apart."""
    cfg, attention, ffw = tree.cfg, tree.blocks.attention, tree.blocks.feed_forward

    def into_heads(leaf, layer):
        return np.asarray(leaf[layer]).reshape(cfg.model_dim, -1).T

    named = {"model.embed_tokens.weight": np.asarray(tree.embedding[...]), "model.norm.weight": np.asarray(tree.final_norm[...])}
    if tree.head is not None:
        named["lm_head.weight"] = np.asarray(tree.head[...]).T
    for layer in range(cfg.num_layers):
        of = {
            "input_layernorm": np.asarray(tree.blocks.attention_norm[layer]),
            "post_attention_layernorm": np.asarray(tree.blocks.ffw_norm[layer]),
            "self_attn.q_proj": into_heads(attention.w_q, layer),
            "self_attn.k_proj": into_heads(attention.w_k, layer),
            "self_attn.v_proj": into_heads(attention.w_v, layer),
            "self_attn.o_proj": np.asarray(attention.w_o[layer]).reshape(-1, cfg.model_dim).T,
            "mlp.gate_proj": np.asarray(ffw.w_gate[layer]).T,
            "mlp.up_proj": np.asarray(ffw.w_up[layer]).T,
            "mlp.down_proj": np.asarray(ffw.w_down[layer]).T,
        }
        named |= {f"model.layers.{layer}.{name}.weight": value for name, value in of.items()}
    return named

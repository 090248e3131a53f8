"""The yardstick: the step one would write first in JAX, with nothing but a scan over layers and AdamW.

Dense masked attention over whole rows, all logits at once, sharding left to XLA: parameters and rows are placed as ours
are, and `jit` decides the rest.

Shape letters: B batch, S query positions, T key positions, D model, N query heads, K key/value heads, G = N/K, H head
dim, F ffw, V vocabulary.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.bench.ours import peak_bytes
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.rope import inverse_frequencies
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import spec
from llama3_jax.train.adamw import AdamW


class BareStep:
    name = "bare jax step"

    def __init__(self, model: Transformer, optimizer: AdamW, rate: float, dtype: str, recompute: bool, mesh: Mesh):
        """Args: recompute: whether the backward pass runs each layer again."""
        self._mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
        self._rows = NamedSharding(self._mesh, spec(None, "batch", "position"))

        def placed(leaf: Array, value: np.ndarray) -> Array:
            return jax.device_put(value, NamedSharding(self._mesh, leaf.sharding.spec))

        parameters = _as_dict(model)
        first, second = (jax.tree.map(lambda leaf: placed(leaf, np.zeros_like(leaf)), parameters) for _ in range(2))
        parameters = jax.tree.map(lambda leaf: placed(leaf, np.asarray(leaf)), parameters)
        self._state = (parameters, first, second, np.int32(0))
        stay = jax.tree.map(lambda leaf: leaf.sharding, parameters)
        step = _make_step(model.cfg, optimizer, rate, dtype, recompute)
        self._step = jax.jit(step, donate_argnums=0, out_shardings=((stay, stay, stay, None), None))
        self._program: Any = None
        self.compile_s, self.peak_bytes = 0.0, None

    def step(self, batch: Batch) -> float:
        batch = jax.device_put(batch, self._rows)
        if self._program is None:
            started = time.perf_counter()
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                self._program = self._step.lower(self._state, batch).compile()
            self.compile_s, self.peak_bytes = time.perf_counter() - started, peak_bytes(self._program)
        self._state, loss = self._program(self._state, batch)
        return float(loss)


def _as_dict(model: Transformer) -> dict[str, Any]:
    attention, ffw = model.blocks.attention, model.blocks.feed_forward
    tree = {
        "embedding": model.embedding, "final_norm": model.final_norm,
        "layers": {
            "attention_norm": model.blocks.attention_norm, "ffw_norm": model.blocks.ffw_norm,
            "q": attention.w_q, "k": attention.w_k, "v": attention.w_v, "o": attention.w_o,
            "gate": ffw.w_gate, "up": ffw.w_up, "down": ffw.w_down,
        },
    }  # fmt: skip
    if model.head is not None:
        tree["head"] = model.head
    return jax.tree.map(lambda leaf: leaf[...], tree, is_leaf=lambda leaf: hasattr(leaf, "get_metadata"))


def _make_step(cfg: ModelConfig, optimizer: AdamW, rate: float, dtype: str, recompute: bool):
    frequencies = inverse_frequencies(cfg)

    def norm(x_BSD, scale):
        x32_BSD = x_BSD.astype(jnp.float32)
        root_BS1 = jax.lax.rsqrt(jnp.mean(x32_BSD**2, -1, keepdims=True) + cfg.norm_eps)
        return (x32_BSD * root_BS1).astype(dtype) * scale.astype(dtype)

    def turn(x_BSNH, angle):
        first, second = jnp.split(x_BSNH.astype(jnp.float32), 2, -1)
        cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(dtype)

    def layer(x_BSD, weights, angle, hidden):
        w = {name: each.astype(dtype) for name, each in weights.items()}
        h_BSD = norm(x_BSD, w["attention_norm"])
        q_BSNH = turn(jnp.einsum("bsd,dnh->bsnh", h_BSD, w["q"]), angle)
        k_BTKH = turn(jnp.einsum("btd,dkh->btkh", h_BSD, w["k"]), angle)
        v_BTKH = jnp.einsum("btd,dkh->btkh", h_BSD, w["v"])
        B, S, N, H = q_BSNH.shape
        q_BSKGH = q_BSNH.reshape(B, S, cfg.num_kv_heads, -1, H)
        score_BKGST = jnp.einsum("bskgh,btkh->bkgst", q_BSKGH, k_BTKH, preferred_element_type=jnp.float32) * H**-0.5
        prob_BKGST = jax.nn.softmax(score_BKGST + hidden, -1).astype(dtype)
        out_BSNH = jnp.einsum("bkgst,btkh->bskgh", prob_BKGST, v_BTKH).reshape(B, S, N, H)
        x_BSD = x_BSD + jnp.einsum("bsnh,nhd->bsd", out_BSNH, w["o"])
        h_BSD = norm(x_BSD, w["ffw_norm"])
        return x_BSD + (jax.nn.silu(h_BSD @ w["gate"]) * (h_BSD @ w["up"])) @ w["down"], None

    def loss_of(parameters, batch):
        tokens_BS, segment_BS = batch.tokens[0], batch.segment_ids[0]
        S = tokens_BS.shape[1]
        seen = (segment_BS[:, :, None] == segment_BS[:, None, :]) & jnp.tri(S, dtype=bool)
        hidden = jnp.where(seen, 0.0, -1e30)[:, None, None]
        angle = batch.positions[0][..., None] * frequencies
        body = jax.checkpoint(layer) if recompute else layer
        x_BSD = parameters["embedding"][tokens_BS].astype(dtype)
        x_BSD, _ = jax.lax.scan(lambda x, w: body(x, w, angle, hidden), x_BSD, parameters["layers"])
        head_DV = parameters["head"] if "head" in parameters else parameters["embedding"].T
        x_BSD = norm(x_BSD, parameters["final_norm"])
        logits_BSV = jnp.einsum("bsd,dv->bsv", x_BSD, head_DV.astype(dtype), preferred_element_type=jnp.float32)
        gold = jnp.take_along_axis(logits_BSV, batch.targets[0][..., None], -1)[..., 0]
        nll = jax.nn.logsumexp(logits_BSV, -1) - gold
        weight = batch.loss_weight[0]
        return jnp.sum(nll * weight) / jnp.sum(weight)

    def step(state, batch) -> tuple[Any, Array]:
        parameters, first, second, count = state
        loss, gradient = jax.value_and_grad(loss_of)(parameters, batch)
        length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda leaf: leaf * jnp.minimum(1.0, optimizer.clip_norm / length), gradient)
        count += 1
        b1, b2 = optimizer.beta1, optimizer.beta2
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradient)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradient)

        def move(path, p, m, v):
            decay = 0.0 if "norm" in str(path[-1]) else optimizer.weight_decay
            m, v = m / (1 - b1**count), v / (1 - b2**count)
            return p - rate * (m / (jnp.sqrt(v) + optimizer.epsilon) + decay * p)

        parameters = jax.tree_util.tree_map_with_path(move, parameters, first, second)
        return (parameters, first, second, count), loss

    return step

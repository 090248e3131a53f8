"""The likelihood of one document by a Llama 3 in plain NumPy, float64: no batches, no masks but causality.

Shape letters: S positions, D model, N query heads, K key/value heads, G = N/K, H head dim, R = H/2.
"""

import jax
import numpy as np


def as_float64(model):
    """The parameters as nested attributes of float64 arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model)


def document_nats(model, tokens) -> np.ndarray:
    """-log p(tokens[i + 1] | tokens[: i + 1]) for each i."""
    cfg, params = model.cfg, as_float64(model)
    x_SD = params.embedding[...][tokens[:-1]]
    length = x_SD.shape[0]
    angle_SR = np.arange(length)[:, None] * cfg.rope_theta ** (-np.arange(0, cfg.head_dim, 2) / cfg.head_dim)
    blocks = params.blocks

    def norm(x_SD, scale_D):
        return x_SD / np.sqrt(np.mean(x_SD**2, -1, keepdims=True) + cfg.norm_eps) * scale_D

    def turn(x_SNH):
        first, second = np.split(x_SNH, 2, -1)
        cos, sin = np.cos(angle_SR)[:, None], np.sin(angle_SR)[:, None]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    for layer in range(cfg.num_layers):
        attention, feed = blocks.attention, blocks.feed_forward
        h_SD = norm(x_SD, blocks.attention_norm[...][layer])
        q_SNH = turn(np.einsum("sd,dnh->snh", h_SD, attention.w_q[...][layer]))
        k_SKH = turn(np.einsum("sd,dkh->skh", h_SD, attention.w_k[...][layer]))
        v_SKH = np.einsum("sd,dkh->skh", h_SD, attention.w_v[...][layer])
        group = cfg.num_heads // cfg.num_kv_heads
        k_SNH, v_SNH = np.repeat(k_SKH, group, 1), np.repeat(v_SKH, group, 1)
        score_NST = np.einsum("snh,tnh->nst", q_SNH, k_SNH) / np.sqrt(cfg.head_dim)
        score_NST = np.where(np.tri(length, dtype=bool), score_NST, -np.inf)
        prob_NST = np.exp(score_NST - score_NST.max(-1, keepdims=True))
        prob_NST /= prob_NST.sum(-1, keepdims=True)
        out_SNH = np.einsum("nst,tnh->snh", prob_NST, v_SNH)
        x_SD = x_SD + np.einsum("snh,nhd->sd", out_SNH, attention.w_o[...][layer])
        h_SD = norm(x_SD, blocks.ffw_norm[...][layer])
        gate_SF = h_SD @ feed.w_gate[...][layer]
        x_SD = x_SD + (gate_SF / (1 + np.exp(-gate_SF)) * (h_SD @ feed.w_up[...][layer])) @ feed.w_down[...][layer]

    logits_SV = norm(x_SD, params.final_norm[...]) @ params.head[...]
    top = logits_SV.max(-1)
    log_sum = top + np.log(np.exp(logits_SV - top[:, None]).sum(-1))
    return log_sum - logits_SV[np.arange(length), tokens[1:]]

"""Llama 3 in float64 NumPy, one document at a time, written from the paper and the released code, not from ours."""

import math

import numpy as np


def weights(model):
    """Every parameter as float64, by its path, e.g. `blocks.attention.w_q`."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path).strip(".").removesuffix(".value"): np.asarray(leaf, np.float64) for path, leaf in leaves}


def frequencies(cfg):
    """theta^(-2i/H), and in Llama 3.1 by wavelength: long ones slowed, short ones kept, those between blended."""
    scaled = []
    for i in range(cfg.head_dim // 2):
        f = cfg.rope_theta ** (-2 * i / cfg.head_dim)
        if (r := cfg.rope_scaling) is not None:
            wavelength = 2 * math.pi / f
            if wavelength > r.original_context_length / r.low_freq_factor:
                f = f / r.factor
            elif wavelength >= r.original_context_length / r.high_freq_factor:
                s = (r.original_context_length / wavelength - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor)
                f = (1 - s) * f / r.factor + s * f
        scaled.append(f)
    return np.array(scaled)


def logits(cfg, w, tokens):
    """[S, V] of one document's token ids [S]."""
    H, group = cfg.head_dim, cfg.num_heads // cfg.num_kv_heads
    x = w["embedding"][tokens]
    angle = np.arange(len(tokens))[:, None] * frequencies(cfg)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def turned(x):  # complex numbers whose real parts are the first half of the head, imaginary ones the second
        z = (x[..., : H // 2] + 1j * x[..., H // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], -1)

    for layer in range(cfg.num_layers):
        b = {name.removeprefix("blocks."): value[layer] for name, value in w.items() if name.startswith("blocks.")}
        n, mixed = norm(x, b["attention_norm"]), 0
        for head in range(cfg.num_heads):
            q = turned(n @ b["attention.w_q"][:, head])
            k, v = turned(n @ b["attention.w_k"][:, head // group]), n @ b["attention.w_v"][:, head // group]
            score = np.where(np.tri(len(x), dtype=bool), q @ k.T / math.sqrt(H), -np.inf)
            prob = np.exp(score - score.max(-1, keepdims=True))
            mixed = mixed + prob / prob.sum(-1, keepdims=True) @ v @ b["attention.w_o"][head]
        x = x + mixed
        n = norm(x, b["ffw_norm"])
        gate = n @ b["feed_forward.w_gate"]
        x = x + gate / (1 + np.exp(-gate)) * (n @ b["feed_forward.w_up"]) @ b["feed_forward.w_down"]
    x = norm(x, w["final_norm"])
    return x @ (w["embedding"].T if cfg.tie_embeddings else w["head"])


def loss(cfg, w, tokens):
    """Summed next-token cross entropy of one document, nats."""
    z = logits(cfg, w, tokens)[:-1]
    z = z - z.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), tokens[1:]]).sum()

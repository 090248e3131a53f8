"""Attention and its gradients in float64 NumPy: what is timed is compared with it first.

Shape letters: S query positions, T key positions, N query heads, K key/value heads, G = N/K, H head dim.
"""

from __future__ import annotations

import math

import jax
import numpy as np

_LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 5e-3}
_FURTHEST_APART = {"float32": 1e-4, "bfloat16": 2e-2}


def largest_error(dtype: str) -> float:
    """Relative, from float64, that rounding makes where inputs are normally distributed, with room: bfloat16 made 2.6e-3."""
    return _LARGEST_ERROR[_multiplied_as(dtype)]


def furthest_apart(dtype: str) -> float:
    """How far two implementations may be from each other, relative, and still do the same work."""
    return _FURTHEST_APART[_multiplied_as(dtype)]


def _multiplied_as(dtype: str) -> str:
    """Accelerators round what is float32 before they multiply it, if nobody asks for more."""
    return "bfloat16" if dtype == "float32" and jax.default_backend() != "cpu" else dtype


def output(q_SNH, k_TKH, v_TKH, visible_ST) -> np.ndarray:
    """[S, N, H] of one row, a head at a time; every query sees a key."""
    q_SNH, k_TKH, v_TKH = (np.asarray(x, np.float64) for x in (q_SNH, k_TKH, v_TKH))
    group = q_SNH.shape[1] // k_TKH.shape[1]
    heads = range(q_SNH.shape[1])
    outs = [_probabilities(q_SNH[:, n], k_TKH[:, n // group], visible_ST) @ v_TKH[:, n // group] for n in heads]
    return np.stack(outs, axis=1)


def gradients(q_SNH, k_TKH, v_TKH, visible_ST, out_bar_SNH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sum(output * out_bar) in q, k and v."""
    q_SNH, k_TKH, v_TKH, out_bar_SNH = (np.asarray(x, np.float64) for x in (q_SNH, k_TKH, v_TKH, out_bar_SNH))
    q_bar_SNH, k_bar_TKH, v_bar_TKH = (np.zeros_like(x) for x in (q_SNH, k_TKH, v_TKH))
    group, scale = q_SNH.shape[1] // k_TKH.shape[1], 1 / math.sqrt(q_SNH.shape[2])
    for n in range(q_SNH.shape[1]):
        q_SH, k_TH, v_TH, out_bar_SH = q_SNH[:, n], k_TKH[:, n // group], v_TKH[:, n // group], out_bar_SNH[:, n]
        prob_ST = _probabilities(q_SH, k_TH, visible_ST)
        prob_bar_ST = out_bar_SH @ v_TH.T
        score_bar_ST = prob_ST * (prob_bar_ST - np.sum(prob_bar_ST * prob_ST, axis=1, keepdims=True)) * scale
        q_bar_SNH[:, n] = score_bar_ST @ k_TH
        k_bar_TKH[:, n // group] += score_bar_ST.T @ q_SH
        v_bar_TKH[:, n // group] += prob_ST.T @ out_bar_SH
    return q_bar_SNH, k_bar_TKH, v_bar_TKH


def _probabilities(q_SH, k_TH, visible_ST) -> np.ndarray:
    score_ST = np.where(visible_ST, q_SH @ k_TH.T / math.sqrt(q_SH.shape[1]), -np.inf)
    prob_ST = np.exp(score_ST - score_ST.max(axis=1, keepdims=True))
    return prob_ST / prob_ST.sum(axis=1, keepdims=True)


def relative_error(ours, expected) -> float:
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))

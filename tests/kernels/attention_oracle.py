"""Attention and its gradient in float64 NumPy, from the definition and from the derivative of softmax by hand."""

import numpy as np


def attention(q_BSNH, k_BTKH, v_BTKH, visible_BST):
    """(out, probabilities); query head n reads key/value head n // (N // K); a query that sees nothing gives zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in (q_BSNH, k_BTKH, v_BTKH))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    score_BNST = np.einsum("bsnh,btnh->bnst", q, k) / np.sqrt(q.shape[-1])
    score_BNST = np.where(visible_BST[:, None], score_BNST, -np.inf)
    top = np.max(score_BNST, axis=-1, keepdims=True)
    exp_BNST = np.exp(score_BNST - np.where(np.isfinite(top), top, 0.0))
    total = np.sum(exp_BNST, axis=-1, keepdims=True)
    prob_BNST = exp_BNST / np.where(total > 0, total, 1.0)
    return np.einsum("bnst,btnh->bsnh", prob_BNST, v), prob_BNST


def gradients(q_BSNH, k_BTKH, v_BTKH, visible_BST, out_bar_BSNH):
    """Gradients of sum(out * out_bar) with respect to q, k and v."""
    _, prob_BNST = attention(q_BSNH, k_BTKH, v_BTKH, visible_BST)
    q, k, v, out_bar = (np.asarray(x, np.float64) for x in (q_BSNH, k_BTKH, v_BTKH, out_bar_BSNH))
    B, T, K, H = k.shape
    group = q.shape[2] // K
    k_all, v_all = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    prob_bar_BNST = np.einsum("bsnh,btnh->bnst", out_bar, v_all)
    score_bar_BNST = prob_BNST * (prob_bar_BNST - np.sum(prob_bar_BNST * prob_BNST, axis=-1, keepdims=True)) / np.sqrt(H)
    q_bar = np.einsum("bnst,btnh->bsnh", score_bar_BNST, k_all)
    k_bar = np.einsum("bnst,bsnh->btnh", score_bar_BNST, q)
    v_bar = np.einsum("bnst,bsnh->btnh", prob_BNST, out_bar)
    return q_bar, *(x.reshape(B, T, K, group, H).sum(axis=3) for x in (k_bar, v_bar))


def visible_documents(segment_ids_BS, window=None):
    """bool [B, S, S]: a query sees itself and earlier tokens of its own document, the last `window` of them."""
    B, S = segment_ids_BS.shape
    visible = np.zeros((B, S, S), bool)
    for b in range(B):
        for s in range(S):
            if segment_ids_BS[b, s] == 0:
                continue
            for t in range(s, -1, -1):
                if segment_ids_BS[b, t] != segment_ids_BS[b, s] or (window is not None and s - t >= window):
                    break
                visible[b, s, t] = True
    return visible


def segments(*lengths, S):
    """int32 [S]: documents of these lengths, numbered from 1, then padding."""
    row = np.zeros(S, np.int32)
    filled = 0
    for number, length in enumerate(lengths, start=1):
        row[filled : filled + length] = number
        filled += length
    return row


def relative_error(ours, oracle):
    ours, oracle = np.asarray(ours, np.float64), np.asarray(oracle, np.float64)
    return np.linalg.norm(ours - oracle) / max(np.linalg.norm(oracle), 1e-30)

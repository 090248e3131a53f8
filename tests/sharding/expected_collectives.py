"""What a training step communicates, written down: every collective of a layer and of the rest, and nothing else."""

from collections import Counter

from llama3_jax.model.config import ModelConfig
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.train.adamw import AdamW

CFG = ModelConfig(
    num_layers=3, model_dim=32, num_heads=16, num_kv_heads=8, head_dim=8, ffw_dim=64, vocab_size=128, context_length=64
)
OPTIMIZER = AdamW()
SHAPE = (1, 8, 64)
TOKENS, MODEL, SEQUENCE = ("data", "sequence"), ("model",), ("sequence",)


def expected(mesh, remat=Remat.NONE, fsdp=Fsdp.REGATHER) -> Counter:
    """(loops around it, kind, axes) -> number of arrays."""
    recomputed = remat is not Remat.NONE
    table = {
        # the seven weights of a layer: for its forward pass, and once more for its backward pass
        (1, "all-gather", TOKENS): 7 if fsdp is Fsdp.KEEP else 14,
        # their gradients
        (1, "reduce-scatter", TOKENS): 7,
        # positions into attention and into the feed-forward; back, the cotangents of what they put out
        (1, "all-gather", MODEL): 2 + 2 + 2 * recomputed,
        # partial sums out of the two; back, into the two. Recomputed, only the first is needed
        (1, "reduce-scatter", MODEL): 2 + 2 + recomputed,
        # keys and values
        (1, "all-gather", SEQUENCE): 2 + 2 * recomputed,
        (1, "reduce-scatter", SEQUENCE): 2,
        # the one chunk of the loss: the maximum, the sum of exponentials and the target's logit
        (0, "all-reduce", MODEL): 3,
        # embedding and head, and their gradients
        (0, "all-gather", TOKENS): 2,
        (0, "reduce-scatter", TOKENS): 2,
        # hidden states out of the embedding and into the loss, and back
        (0, "all-gather", MODEL): 2,
        (0, "reduce-scatter", MODEL): 2,
        # which document each key belongs to
        (0, "all-gather", SEQUENCE): 1,
        # the gradients of the scales of all norms: of attention, of feed-forward and the final one
        (0, "all-reduce", TOKENS + MODEL): 3,
    }
    present = Counter()
    for (loops, kind, axes), count in table.items():
        if axes := tuple(axis for axis in axes if mesh.shape[axis] > 1):
            present[loops, kind, axes] += count
    return present


def sums(counts: Counter) -> Counter:
    """`counts` with scatters and reductions counted as one, for compilers that write the first as the second."""
    merged = Counter()
    for (loops, kind, axes), count in counts.items():
        merged[loops, "sum" if kind in ("all-reduce", "reduce-scatter") else kind, axes] += count
    return merged

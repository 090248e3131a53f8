"""Whether every row of a run is one document: the only rows whose attention cuDNN gets right."""

from __future__ import annotations

from llama3_jax.batches.packing import Packing
from llama3_jax.commands.run import TrainRun
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.train.loop import Recipe


def require_one_document_a_row(run: TrainRun, recipe: Recipe) -> None:
    """For a run with `attention=cudnn`.

    Raises: ValueError naming the first stage that has a row of several documents or of padding, or may have.
    """
    if run.attention is not Implementation.CUDNN:
        return
    for span in recipe.spans:
        for name, stretch in span.stretches.items():
            tally = stretch.tally
            rows = tally.positions // span.stage.sequence_length
            in_one_row = run.packing is Packing.CROP or run.packing is Packing.BEST_FIT and not tally.cut
            if tally.tokens == tally.positions and tally.documents == rows and (in_one_row or not rows):
                continue
            raise ValueError(
                f"attention=cudnn attends across the documents of a row, and stage {span.stage.name} takes {rows:,} rows of "
                f"{span.stage.sequence_length:,} positions from source {name}, packing={run.packing.value}, with "
                f"{tally.documents:,} documents and {tally.positions - tally.tokens:,} positions of padding; use attention=auto, "
                "which keeps documents apart, or packing=crop and a sequence_length that the shortest document fills"
            )

"""Documents that hold evaluation sets are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama3_jax.curation.contamination import Contamination, EvaluationIndex, overlap
from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.read.evaluations import evaluation_texts
from llama3_jax.curation.read.read import find_inputs
from llama3_jax.curation.step import Facts, Task, digest

STAGE = "decontaminate"


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Against which evaluation sets."""

    evaluations: tuple[str, ...]
    """Files and directories of .jsonl(.gz/.zst) or .parquet: a set a file, named as the file; every string of a record."""
    rules: Contamination = Contamination()
    sources: tuple[str, ...] | None = None


def decontaminate(context: Context, partitions: Sequence[Partition], settings: Decontaminate) -> Outcome:
    """Rejects documents that share more with an evaluation set than the rules allow."""
    files = find_inputs(settings.evaluations)
    of_files = digest([(file.name, file.size, file.version) for file in files])
    index = context.step(
        f"{STAGE}/index",
        [Task(inputs=tuple(files), digest=of_files, size=1)],
        partial(_index, rules=settings.rules),
        settings.rules,
    )[0]
    also = [(index.directory, index.digest)] * len(partitions)
    rest = (settings.rules, settings.sources)
    pieces = context.over(f"{STAGE}/match", partitions, partial(_match, settings=settings), rest, also=also)
    return outcome(STAGE, partitions, pieces)


def _index(inputs, directory: Path, *, rules: Contamination) -> Facts:
    texts: Mapping[str, list[str]] = {file.name.split(".")[0]: list(evaluation_texts(file)) for file in inputs}
    index = EvaluationIndex.of(texts, rules)
    for length in index.keys:
        np.save(directory / f"keys-{length}.npy", index.keys[length])
        np.save(directory / f"sets-{length}.npy", index.sets[length])
    (directory / "names.txt").write_text("\n".join(index.names))
    return {"sets": len(index.names), "texts": sum(map(len, texts.values()))}


def _match(inputs, directory: Path, *, settings: Decontaminate) -> Facts:
    _, partition, place = inputs
    lengths = [int(path.stem.split("-")[1]) for path in sorted(place.glob("keys-*.npy"))]
    index = EvaluationIndex(
        {length: np.load(place / f"keys-{length}.npy", mmap_mode="r") for length in lengths},
        {length: np.load(place / f"sets-{length}.npy", mmap_mode="r") for length in lengths},
        (place / "names.txt").read_text().split("\n"),
    )

    def judge(table: pa.Table, first_row: int) -> Judged:
        shared = overlap(table["text"].to_pylist(), index, settings.rules)
        reasons, values = shared.reasons(settings.rules)
        return Judged(
            documents=table, reasons=reasons, values=values, details=shared.sets,
            measures={"long_ngram_matches": shared.long_matches, "short_ngram_share": shared.short_share},
        )  # fmt: skip

    return judge_documents(partition.path, directory, judge, stage=STAGE, of_sources=settings.sources)

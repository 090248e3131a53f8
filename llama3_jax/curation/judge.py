"""One pass over a piece of documents: each is kept, changed perhaps, or rejected with a reason and a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3_jax.curation.documents import REJECTED, DocumentWriter, read_groups
from llama3_jax.curation.step import Facts
from llama3_jax.curation.tally import Tally

KEPT, REJECTS = "kept.parquet", "rejected.parquet"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict on each row of a table of documents."""

    documents: pa.Table
    """The same rows in the same order, with the text and the columns that go on."""
    reasons: Sequence[str | None]
    """None keeps."""
    values: Sequence[float] | None = None
    """What was measured and did not pass; NaN where there is no number."""
    details: Sequence[str] | None = None
    """What else there is to say of a rejection: a domain, the id of the document that stays."""
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of all rows, for the histograms of the report; NaN where it was not measured."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Anything else to add up over the stage."""


def judge_documents(
    path: Path, directory: Path, judge: Callable[[pa.Table, int], Judged], *, stage: str, of_sources: Sequence[str] | None
) -> Facts:
    """Writes kept.parquet and rejected.parquet; every document of `path` is in one of them.

    Args:
        judge: given a table and the number of its first row in the file.
        of_sources: documents of other sources pass unjudged; None judges all.
    """
    tally, counts, first_row = Tally(stage), {}, 0
    with DocumentWriter(directory / KEPT) as kept, DocumentWriter(directory / REJECTS, REJECTED) as rejects:
        for table in read_groups(path):
            sizes = pc.binary_length(table["text"]).to_numpy(zero_copy_only=False)
            tally.read(table.num_rows, int(sizes.sum()))
            judged = _judged(table, first_row, judge, of_sources)
            first_row += table.num_rows
            passes = np.array([reason is None for reason in judged.reasons], dtype=bool)
            kept_rows, rejected_rows = np.flatnonzero(passes), np.flatnonzero(~passes)
            kept.write(judged.documents.take(pa.array(kept_rows)))
            rejects.write(_rejected(judged, rejected_rows, stage))
            _count(tally, judged, kept_rows, rejected_rows)
            for name, number in judged.counts.items():
                counts[name] = counts.get(name, 0) + int(number)
    return tally.facts() | {"counts": counts}


def _judged(table: pa.Table, first_row: int, judge, of_sources: Sequence[str] | None) -> Judged:
    """A partition holds documents of one source."""
    if table.num_rows == 0 or of_sources is None or table["source"][0].as_py() in of_sources:
        return judge(table, first_row)
    return Judged(documents=table, reasons=[None] * table.num_rows)


def _rejected(judged: Judged, rows: np.ndarray, stage: str) -> pa.Table:
    table = judged.documents.take(pa.array(rows))
    values, details = _values(judged), _details(judged)
    for name, column in (
        ("stage", pa.array([stage] * len(rows), pa.string())),
        ("reason", pa.array([judged.reasons[row] for row in rows], pa.string())),
        ("value", pa.array([values[row] for row in rows], pa.float64(), from_pandas=True)),
        ("detail", pa.array([details[row] for row in rows], pa.string())),
    ):
        table = table.append_column(name, column)
    return table


def _values(judged: Judged) -> Sequence[float]:
    return judged.values if judged.values is not None else np.full(len(judged.reasons), np.nan)


def _details(judged: Judged) -> Sequence[str]:
    return judged.details if judged.details is not None else [""] * len(judged.reasons)


def _count(tally: Tally, judged: Judged, kept_rows: np.ndarray, rejected_rows: np.ndarray) -> None:
    documents = judged.documents.select(["id", "url", "source", "language", "license", "text"]).to_pylist()
    sizes = pc.binary_length(judged.documents["text"]).to_pylist()
    values, details = _values(judged), _details(judged)
    for row in kept_rows:
        tally.keep(documents[row], sizes[row])
    for row in rejected_rows:
        tally.reject(documents[row], sizes[row], judged.reasons[row], values[row], details[row])
    for name, measured in judged.measures.items():
        tally.measure(name, measured.tolist())

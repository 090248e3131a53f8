"""Heuristic rules, per language: repetition, dirty words, divergence from the corpus, published sets (section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.heuristics.divergence import token_counts
from llama3_jax.curation.heuristics.measure import measure
from llama3_jax.curation.heuristics.settings import Heuristics
from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.step import Facts, digest, file_digest

STAGE = "heuristics"


@dataclass(frozen=True, kw_only=True)
class HeuristicRules:
    """The rules, and the documents they judge."""

    rules: Heuristics = Heuristics()
    sources: tuple[str, ...] | None = None
    """Only documents of these are judged, and make the distribution that they are compared with; null: all."""


def judge_heuristics(context: Context, partitions: Sequence[Partition], settings: HeuristicRules) -> Outcome:
    """Rejects a document by the first rule that it breaks; two passes, the first for the token distribution."""
    counted = context.over(f"{STAGE}/tokens", partitions, partial(_count, sources=settings.sources), settings.sources)
    corpus = context.one(f"{STAGE}/corpus", tuple(piece.directory for piece in counted), counted, _sum)
    lists = [(path, file_digest(Path(path))) for path in settings.rules.lists()]
    also = [(corpus.directory, digest([corpus.digest, lists]))] * len(partitions)
    pieces = context.over(f"{STAGE}/judge", partitions, partial(_judge, settings=settings), settings, also=also)
    return outcome(STAGE, partitions, pieces)


def by_language(table: pa.Table) -> dict[str, np.ndarray]:
    """Language -> its rows."""
    languages = np.array(table["language"].to_pylist(), dtype=object)
    return {language: np.flatnonzero(languages == language) for language in sorted(set(languages.tolist()))}


def _file(language: str) -> str:
    """Languages come from data: any name must make a file name."""
    return f"{digest(language)[:16]}.npy"


def _count(inputs, directory: Path, *, sources) -> Facts:
    _, partition, _ = inputs
    counts: dict[str, np.ndarray] = {}
    if partition.of(sources):
        for table in read_groups(partition.path, ["text", "language"]):
            for language, rows in by_language(table).items():
                counted = token_counts(pc.take(table["text"], pa.array(rows)))
                counts[language] = counts[language] + counted if language in counts else counted
    for language, counted in counts.items():
        np.save(directory / _file(language), counted)
    return {"languages": sorted(counts)}


def _sum(inputs, directory: Path) -> Facts:
    for name in sorted({path.name for place in inputs for path in place.glob("*.npy")}):
        np.save(directory / name, sum(np.load(place / name) for place in inputs if (place / name).exists()))
    return {}


def _judge(inputs, directory: Path, *, settings: HeuristicRules) -> Facts:
    _, partition, corpus = inputs

    def judge(table: pa.Table, first_row: int) -> Judged:
        count = table.num_rows
        reasons: list[str | None] = [None] * count
        values, texts, measures = np.full(count, np.nan), table["text"].to_pylist(), {}
        for language, rows in by_language(table).items():
            reference = np.load(corpus / _file(language))
            measured = measure(pc.take(table["text"], pa.array(rows)), settings.rules, language=language, reference=reference)
            for name, of_rows in measured.values.items():
                measures.setdefault(name, np.full(count, np.nan))[rows] = of_rows
            for place, row in enumerate(rows.tolist()):
                reasons[row], values[row], texts[row] = measured.reason[place], measured.value[place], measured.texts[place]
        table = table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
        return Judged(documents=table, reasons=reasons, values=values, measures=measures)

    return judge_documents(partition.path, directory, judge, stage=STAGE, of_sources=settings.sources)

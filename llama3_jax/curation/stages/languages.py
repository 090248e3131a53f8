"""The language of each document, by a fastText model; what the record said stays where the model is not sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.language.identify import LanguageModel
from llama3_jax.curation.language.labelled import labelled_texts
from llama3_jax.curation.language.train import train_language_model
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.step import Facts, Task, file_digest

STAGE, MODEL = "languages", "languages.bin"


@dataclass(frozen=True, kw_only=True)
class Languages:
    """Language identification (section 3.1.1: fastText, 176 languages)."""

    model: str | None = None
    """A fastText model: lid.176.bin or .ftz, or one of `llama3 language`."""
    labelled: str | None = None
    """Or labelled text to train one on first: .jsonl of `text` and `lang` or `language`, and `sent_id` where some are
    translations of others."""
    at_least: float = 0.5
    """Confidence below which a document has no language of its own, `und`."""
    keep: tuple[str, ...] | None = None
    """Languages that go on, `und` may be one; null: all."""
    sources: tuple[str, ...] | None = None
    """Only documents of these are judged; others keep what their records say. Null: all."""

    def __post_init__(self):
        if (self.model is None) == (self.labelled is None):
            raise ValueError("give model, a fastText file, or labelled, text to train one on; one of the two")
        if not 0 <= self.at_least <= 1:
            raise ValueError(f"at_least={self.at_least} is a confidence; use 0 to 1")


def identify_languages(context: Context, partitions: Sequence[Partition], settings: Languages) -> Outcome:
    """Labels every document; rejects those in languages that are not kept."""
    model = Path(settings.model) if settings.model is not None else _trained(context, settings.labelled)
    also = [(model, file_digest(model))] * len(partitions)
    rest = (settings.at_least, settings.keep, settings.sources)  # the model counts by its bytes
    pieces = context.over(f"{STAGE}/identify", partitions, partial(_identify, settings=settings), rest, also=also)
    return outcome(STAGE, partitions, pieces)


def _trained(context: Context, labelled: str) -> Path:
    task = Task(inputs=labelled, digest=file_digest(Path(labelled)), size=1)
    return context.step(f"{STAGE}/train", [task], _train)[0].directory / MODEL


def _train(labelled: str, directory: Path) -> Facts:
    trained = train_language_model(labelled_texts([labelled]), directory / MODEL)
    return {"accuracy": trained.accuracy, "held_out": trained.held_out, "of_language": dict(trained.of_language)}


def _identify(inputs, directory: Path, *, settings: Languages) -> Facts:
    _, partition, path = inputs
    model = LanguageModel.load(path)

    def judge(table: pa.Table, first_row: int) -> Judged:
        found, confidence = model.identify(table["text"].to_pylist())
        languages = [name if sure >= settings.at_least else "und" for name, sure in zip(found, confidence, strict=True)]
        unwanted = [settings.keep is not None and language not in settings.keep for language in languages]
        table = table.set_column(table.schema.get_field_index("language"), "language", pa.array(languages, pa.string()))
        return Judged(
            documents=table,
            reasons=["other_language" if other else None for other in unwanted],
            values=np.asarray(confidence, dtype=np.float64),
            details=[f"most like {name}" for name in found],
            measures={"language_confidence": np.asarray(confidence, dtype=np.float64)},
        )

    return judge_documents(partition.path, directory, judge, stage=STAGE, of_sources=settings.sources)

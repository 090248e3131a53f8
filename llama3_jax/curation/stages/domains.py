"""Domains left out by list, and those that our own measurement finds dense in personal data; personal data masked, or its
documents dropped, in the rest (section 3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.domains import DomainDensity, DomainLists, registered_domain
from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.personal_data.apply import PersonalData, apply
from llama3_jax.curation.personal_data.density import items_per_1000_words, num_words
from llama3_jax.curation.personal_data.find import find
from llama3_jax.curation.step import Facts, digest, file_digest
from llama3_jax.curation.tally import total

STAGE, PERSONAL = "domains", "personal_data"


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Which domains are left out."""

    lists: Mapping[str, str] = field(default_factory=dict)
    """Name of a list (adult, blocked, ...) -> a file of one domain a line; the name becomes the reason."""
    density: DomainDensity | None = DomainDensity()
    """Null measures nothing."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What becomes of personal data within documents."""

    actions: PersonalData = PersonalData()
    sources: tuple[str, ...] | None = None
    """Only documents of these; null: all."""


def filter_domains(context: Context, partitions: Sequence[Partition], settings: Domains) -> Outcome:
    """Rejects documents by the domain of their URL; documents without one pass."""
    dense: dict[str, float] = {}
    if settings.density is not None:
        counted = context.over(f"{STAGE}/density", partitions, _count)
        totals = total({"domains": piece.facts["domains"]} for piece in counted).get("domains", {})
        dense = settings.density.too_dense({name: tuple(counts) for name, counts in totals.items()})
    lists = {name: file_digest(Path(path)) for name, path in settings.lists.items()}
    also = [(dense, digest([dense, lists]))] * len(partitions)
    work = partial(_filter, lists=dict(settings.lists))
    return outcome(STAGE, partitions, context.over(f"{STAGE}/filter", partitions, work, tuple(settings.lists), also=also))


def _count(inputs, directory: Path) -> Facts:
    _, partition, _ = inputs
    domains: dict[str, list[int]] = {}
    for table in read_groups(partition.path, ["url", "text"]):
        for url, text in zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True):
            if url and (domain := registered_domain(url)):
                counts = domains.setdefault(domain, [0, 0, 0])
                for place, number in enumerate((1, num_words(text), len(find(text)))):
                    counts[place] += number
    return {"domains": domains}


def _filter(inputs, directory: Path, *, lists: Mapping[str, str]) -> Facts:
    _, partition, dense = inputs
    listed = DomainLists(lists)

    def judge(table: pa.Table, first_row: int) -> Judged:
        reasons, details, values = [], [], []
        for url in table["url"].to_pylist():
            found = listed.listed(url) if url else None
            domain = registered_domain(url) if url else ""
            if found is not None:
                reasons.append(f"domain.{found[0]}")
            else:
                reasons.append("domain.personal_data" if domain in dense else None)
            details.append(found[1] if found is not None else domain)
            values.append(dense.get(domain, np.nan))
        return Judged(documents=table, reasons=reasons, values=values, details=details)

    return judge_documents(partition.path, directory, judge, stage=STAGE, of_sources=None)


def treat_personal_data(context: Context, partitions: Sequence[Partition], settings: Privacy) -> Outcome:
    """Masks personal data, or rejects documents for it."""
    work = partial(_treat, settings=settings)
    return outcome(PERSONAL, partitions, context.over(f"{PERSONAL}/treat", partitions, work, settings))


def _treat(inputs, directory: Path, *, settings: Privacy) -> Facts:
    _, partition, _ = inputs

    def judge(table: pa.Table, first_row: int) -> Judged:
        texts, reasons, values, counts = [], [], [], {}
        per_thousand = []
        for text in table["text"].to_pylist():
            changed, found, reason, value = apply(text, settings.actions)
            texts.append(changed if reason is None else text)
            reasons.append(reason)
            values.append(value if reason else np.nan)
            per_thousand.append(items_per_1000_words(sum(found.values()), text))
            for kind, number in found.items():
                counts[kind] = counts.get(kind, 0) + number
        table = table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
        measures = {"items_per_1000_words": np.array(per_thousand)}
        return Judged(documents=table, reasons=reasons, values=values, counts=counts, measures=measures)

    return judge_documents(partition.path, directory, judge, stage=PERSONAL, of_sources=settings.sources)

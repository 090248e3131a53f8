"""The page of a curation run."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3_jax.curation.heuristics.measure import bounds_of
from llama3_jax.curation.partition import Outcome
from llama3_jax.curation.pipeline import Curated, Curation
from llama3_jax.curation.report.plots import plot_counts, plot_lengths, plot_measures, plot_stages

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.4em } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd }
td, th { text-align: right }
td:first-child, th:first-child, td.text { text-align: left } img { max-width: 100% } h2 { margin-top: 1.6em }
details { margin: .4em 0; border-left: 3px solid #3b7ea1; padding-left: .8em } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; padding: .8em; max-height: 22em; overflow-y: auto }
small { color: #666 }
"""


def write_report(run: Curation, curated: Curated, directory: Path) -> Path:
    """Writes index.html and its plots into `directory`; returns the page. Nothing in it runs or is fetched."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.png"):
        old.unlink()
    body = "\n".join(_sections(run, curated, directory))
    page = directory / "index.html"
    title = html.escape(f"Curation: {run.name}")
    page.write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{body}\n</body></html>\n",
        encoding="utf-8",
    )
    return page


def _sections(run: Curation, curated: Curated, directory: Path) -> Iterator[str]:
    outcomes, last = curated.outcomes, curated.outcomes[-1].facts
    first = outcomes[0].facts
    yield (
        f"<p>{first['documents_in']:,} documents of {first['bytes_in'] / 1e6:,.1f} MB were read, {last['kept']['documents']:,} "
        f"of {last['kept']['bytes'] / 1e6:,.1f} MB of text are kept.</p>"
    )
    plot_stages(outcomes, directory / "stages.png")
    yield "<h2>Stages</h2>" + _image("stages.png")
    header = (
        "stage",
        "documents in",
        "kept",
        "rejected",
        "MB in",
        "MB kept",
        "MB rejected",
        "MB taken out of kept documents",
    )
    yield _table(header, [_row(outcome) for outcome in outcomes])

    reasons = {f"{o.stage}: {reason}": group for o in outcomes for reason, group in o.facts["rejected"].items()}
    yield "<h2>Why documents were rejected</h2>"
    if reasons:
        plot_counts(
            "documents rejected", {name: group["documents"] for name, group in reasons.items()}, directory / "reasons.png"
        )
        yield _image("reasons.png")
    ordered = sorted(reasons.items(), key=lambda item: (-item[1]["documents"], item[0]))
    yield _table(("reason", "documents", "MB"), [(n, f"{g['documents']:,}", f"{g['bytes'] / 1e6:,.2f}") for n, g in ordered])

    yield "<h2>What is kept</h2>"
    plot_lengths(last["lengths"], directory / "lengths.png")
    plot_counts("documents", {name: count for name, (count, _) in last["languages"].items()}, directory / "languages.png")
    yield _image("lengths.png") + _image("languages.png")
    for title, counts in (("source", last["sources"]), ("language", last["languages"])):
        largest = sorted(counts.items(), key=lambda item: -item[1][1])[:25]
        yield _table((title, "documents", "MB"), [(name, f"{n:,}", f"{size / 1e6:,.2f}") for name, (n, size) in largest])

    counts = {
        f"{outcome.stage}: {name}": number for outcome in outcomes for name, number in outcome.facts.get("counts", {}).items()
    }
    if counts:
        yield "<h2>Counted on the way</h2>" + _table(("what", "number"), [(name, f"{n:,}") for name, n in counts.items()])

    measures = {name: values for outcome in outcomes for name, values in outcome.facts["measures"].items()}
    if measures:
        plot_measures(measures, thresholds(run), directory / "measures.png")
        yield (
            "<h2>Measured values</h2><p>Of every document that was judged; red lines are the thresholds of the run file. "
            "Documents are counted on a logarithmic scale.</p>" + _image("measures.png")
        )
    for facts in (outcome.facts["removed_lines"] for outcome in outcomes if "removed_lines" in outcome.facts):
        yield (
            f"<h2>Removed lines</h2><p>{facts['lines']:,} different lines occurred too often; the most frequent ones, all of "
            f"them in <code>{html.escape(facts['file'])}</code>:</p>"
        )
        top = facts["top"][:40]
        yield _table(("line", "language", "occurrences"), [(r["line"], r["language"], f"{r['occurrences']:,}") for r in top])
    yield "<h2>Kept, at random</h2>" + "".join(_samples(last["kept"]["samples"].values()))
    yield "<h2>Rejected, at random</h2>"
    for name, group in ordered:
        yield f"<h3>{html.escape(name)} <small>{group['documents']:,} documents</small></h3>"
        yield "".join(_samples(list(group["samples"].values())[:4]))


def thresholds(run: Curation) -> dict[str, list[float]]:
    """The bounds of the default rules, by the names of the measurements."""
    bounds: dict[str, list[float]] = {}

    def add(name: str, *values: float | None) -> None:
        bounds[name] = [float(value) for value in values if value is not None]

    if run.languages is not None:
        add("language_confidence", run.languages.at_least)
    if run.personal_data is not None:
        add("items_per_1000_words", run.personal_data.actions.max_items_per_1000_words)
    if run.decontaminate is not None:
        add("long_ngram_matches", run.decontaminate.rules.max_long_matches)
        add("short_ngram_share", run.decontaminate.rules.max_short_share)
    if run.heuristics is not None:
        bounds |= bounds_of(run.heuristics.rules.default)
    return bounds


def _row(outcome: Outcome) -> tuple[str, ...]:
    facts = outcome.facts
    documents = sum(group["documents"] for group in facts["rejected"].values())
    size = sum(group["bytes"] for group in facts["rejected"].values())
    taken = facts["bytes_in"] - facts["kept"]["bytes"] - size
    counts = (facts["documents_in"], facts["kept"]["documents"], documents)
    return (
        outcome.stage,
        *(f"{n:,}" for n in counts),
        *(f"{n / 1e6:,.2f}" for n in (facts["bytes_in"], facts["kept"]["bytes"], size, taken)),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def _image(name: str) -> str:
    return f'<p><img src="{name}" alt="{name.removesuffix(".png")}"></p>'


def _samples(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for sample in samples:
        said = [sample["source"], sample["language"], sample["url"] or sample["id"]]
        if sample.get("value") is not None:
            said.append(f"{sample['value']:.4g}")
        if sample.get("detail"):
            said.append(sample["detail"])
        text = html.escape(sample["text"])
        yield f"<details><summary>{html.escape(' · '.join(filter(None, said)))}</summary><pre>{text}</pre></details>\n"


def data_card(run: Curation, curated: Curated, config_digest: str) -> str:
    """What a data set is made of, in Markdown."""
    last = curated.outcomes[-1].facts
    lines = [f"# Data card: {run.name}", "", f"Config hash: `{config_digest}`", ""]
    lines += ["## Sources", "", "| source | mix | documents | MB | licence given |", "| --- | --- | ---: | ---: | --- |"]
    for name, source in run.sources.items():
        documents, size = last["sources"].get(name, (0, 0))
        lines.append(
            f"| {name} | {source.mix or name} | {documents:,} | {size / 1e6:,.2f} | {source.license or 'in the records'} |"
        )
    lines += ["", "## Stages", "", "| stage | in | kept | rejected |", "| --- | ---: | ---: | --- |"]
    for outcome in curated.outcomes:
        facts = outcome.facts
        why = ", ".join(f"{reason} {group['documents']:,}" for reason, group in facts["rejected"].items())
        lines.append(f"| {outcome.stage} | {facts['documents_in']:,} | {facts['kept']['documents']:,} | {why or '-'} |")
    lines += ["", "## Languages", "", "| language | documents | MB |", "| --- | ---: | ---: |"]
    for name, (documents, size) in sorted(last["languages"].items(), key=lambda item: -item[1][1]):
        lines.append(f"| {name} | {documents:,} | {size / 1e6:,.2f} |")
    lines += ["", "## Licences of the documents", "", "| licence | documents | MB |", "| --- | ---: | ---: |"]
    for name, (documents, size) in sorted(last["licenses"].items(), key=lambda item: -item[1][1]):
        lines.append(f"| {name.replace('|', '/')} | {documents:,} | {size / 1e6:,.2f} |")
    if curated.written is not None:
        lines += ["", "## Shards", "", "| mix | split | documents | MB | tokens |", "| --- | --- | ---: | ---: | ---: |"]
        for group, splits in sorted(curated.written.counts.items()):
            for split, (documents, size, tokens) in splits.items():
                lines.append(f"| {group} | {split} | {documents:,} | {size / 1e6:,.2f} | {tokens:,} |")
    lines += ["", "## Settings", "", "```json", json.dumps(dataclasses.asdict(run), indent=1, default=str), "```", ""]
    return "\n".join(lines)

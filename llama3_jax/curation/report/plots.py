"""The plots of a curation run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llama3_jax.curation.partition import Outcome

_KEPT, _REJECTED = "#3b7ea1", "#d9a066"
_SHOWN = 20


def plot_stages(outcomes: Sequence[Outcome], path: Path) -> None:
    """Documents and bytes into each stage, and what came out."""
    names = [outcome.stage for outcome in outcomes]
    figure = Figure(figsize=(11, 0.45 * len(names) + 1.2), layout="constrained")
    documents, size = figure.subplots(1, 2, sharey=True)
    for axes, title, before, after in (
        (
            documents,
            "documents",
            [o.facts["documents_in"] for o in outcomes],
            [o.facts["kept"]["documents"] for o in outcomes],
        ),
        (size, "MB", [o.facts["bytes_in"] / 1e6 for o in outcomes], [o.facts["kept"]["bytes"] / 1e6 for o in outcomes]),
    ):
        axes.barh(names, before, color=_REJECTED, label="in")
        axes.barh(names, after, color=_KEPT, label="kept")
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.3)
    documents.invert_yaxis()
    documents.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)  # above the bars
    _save(figure, path)


def plot_counts(title: str, counts: Mapping[str, float], path: Path) -> None:
    """Horizontal bars of the largest counts, on a logarithmic scale."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    figure = Figure(figsize=(8, 0.32 * max(1, len(shown)) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in shown], [count for _, count in shown], color=_KEPT)
    axes.set(xlabel=title, xscale="log" if shown else "linear")
    axes.invert_yaxis()
    _save(figure, path)


def plot_lengths(lengths: Mapping[str, int], path: Path) -> None:
    """Documents by the size of their text, in powers of two."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    octaves = sorted(map(int, lengths))
    axes.bar([2.0**octave for octave in octaves], [lengths[str(o)] for o in octaves], width=[2.0**o * 0.9 for o in octaves],
             align="edge", color=_KEPT)  # fmt: skip
    axes.set(xscale="log", xlabel="bytes of text", ylabel="documents")
    _save(figure, path)


def plot_measures(measures: Mapping[str, Mapping[str, int]], thresholds: Mapping[str, Sequence[float]], path: Path) -> None:
    """The distribution of every measured value over the documents, with the bounds that are set."""
    columns = 3
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.2 * rows), layout="constrained")
    for axes, (name, counts) in zip(
        np.ravel(figure.subplots(rows, columns, squeeze=False)), sorted(measures.items()), strict=False
    ):
        _histogram(axes, name, counts, thresholds.get(name, ()))
    for axes in figure.axes[len(measures) :]:
        axes.set_axis_off()
    _save(figure, path)


def _histogram(axes: Axes, name: str, counts: Mapping[str, int], bounds: Sequence[float]) -> None:
    values = np.array([float(value) for value in counts])
    weights = np.array(list(counts.values()))
    if len(values):
        order = np.argsort(values)
        share = np.cumsum(weights[order]) / weights.sum()
        low = values[order][np.searchsorted(share, 0.002)]
        high = values[order][min(np.searchsorted(share, 0.998), len(values) - 1)]
        low, high = min([low, *bounds]), max([high, *bounds])
        axes.hist(np.clip(values, low, high), bins=40, weights=weights, color=_KEPT)
        axes.set_yscale("log")
    for bound in bounds:
        axes.axvline(bound, color="crimson", linewidth=1)
    axes.set_title(name, fontsize=8)
    axes.tick_params(labelsize=7)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})

"""Plots of a run: the curves one looks at to know whether it is healthy, drawn from `metrics.jsonl` alone.

Every panel has tokens on its x axis and a thin line where a phase or stage begins. Drawn with Matplotlib's
object-oriented API on an Agg canvas, so that a background thread can do it while the run goes on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llama3_jax.train.journal import metrics_lines, parse_metrics, stage_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_RECORDS = 20_000
"""Records of ordinary steps that are parsed."""
MAX_POINTS = 5000
"""Points drawn for one curve; more cannot be told apart."""
SIZE, DPI = (16, 9), 100
"""Inches and pixels per inch: 1600 x 900."""
COLORS = ("#3b6fb6", "#e08a2e", "#3f9c6b", "#b8517a", "#7a64b8", "#8a7a3d", "#3b9fb0", "#a65b3a")
ALARM, INK, FAINT = "#d02828", "#333333", "#8a8a8a"


@dataclass(frozen=True)
class Segment:
    """The steps of one stage, in a row."""

    label: str
    steps: slice
    color: str


class Run:
    """The columns of a `metrics.jsonl`: training steps (records with "loss") and evaluations (records with
    "eval_loss")."""

    def __init__(self, records: list[dict[str, float | str]]):
        self.steps = [record for record in records if "loss" in record]
        self.evaluations = [record for record in records if "eval_loss" in record]
        self._columns: dict[str, np.ndarray] = {}
        self.tokens = self.column("tokens")
        self.segments = list(self._segments())

    def column(self, name: str) -> np.ndarray:
        """One value a step, NaN where it is missing."""
        if name not in self._columns:
            self._columns[name] = _column(self.steps, name)
        return self._columns[name]

    def evaluated(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and values of the evaluations that carry `name`."""
        records = [record for record in self.evaluations if name in record]
        return _column(records, "tokens"), _column(records, name)

    def _segments(self) -> Iterator[Segment]:
        start, colors = 0, itertools.cycle(COLORS)
        for label, records in itertools.groupby(self.steps, stage_label):
            stop = start + sum(1 for _ in records)
            yield Segment(label, slice(start, stop), next(colors))
            start = stop


def plot_run(directory: Path) -> list[Path]:
    """Draw a run's `metrics.jsonl` as PNGs under `plots/`: each panel by itself, and all of them in
    `summary.png`.

    Returns: the files written; none while there is no training step to draw.
    """
    run = Run(parse_metrics(_sample(metrics_lines(Path(directory) / "metrics.jsonl"))))
    if not run.steps:
        return []
    panels = {
        "loss": draw_loss,
        "grad_norm": draw_grad_norm,
        "learning_rate": draw_learning_rate,
        "batch_and_sequence": draw_batch_and_sequence,
        "throughput": draw_throughput,
    }
    if run.evaluations:
        panels["held_out"] = draw_held_out
    plots = Path(directory) / "plots"
    plots.mkdir(exist_ok=True)
    figures = {name: _figure([draw], (1, 1), run, font_size=15) for name, draw in panels.items()}
    figures["summary"] = _figure(list(panels.values()), (2, 3), run, font_size=10)
    return [_save(figure, plots / f"{name}.png") for name, figure in figures.items()]


def draw_loss(axes: Axes, run: Run) -> None:
    """Training loss coloured by stage, raw and smoothed, with held-out loss on top."""
    _title(axes, "Loss", "nats per token")
    loss, smoothed = run.column("loss"), smooth(run.column("loss"))
    for segment in run.segments:
        _dots(axes, run.tokens[segment.steps], loss[segment.steps], color=segment.color)
    for segment in run.segments:
        _line(axes, run.tokens[segment.steps], smoothed[segment.steps], color=segment.color)
    _fit(axes, run.tokens, loss)
    if run.evaluations:
        _points(axes, *run.evaluated("eval_loss"), color=INK, label="held out")
        _legend(axes)


def draw_held_out(axes: Axes, run: Run) -> None:
    """Held-out loss by source, and the last bits per byte."""
    _, bits = run.evaluated("bits_per_byte")
    now = f" (now {bits[-1]:.3f} bits per byte)" if len(bits) else ""
    _title(axes, "Held-out loss", f"nats per token{now}")
    sources = sorted({name for record in run.evaluations for name in record if name.startswith("eval_loss/")})
    for name, color in zip(sources, itertools.cycle(COLORS), strict=False):
        _points(axes, *run.evaluated(name), color=color, label=name.removeprefix("eval_loss/"))
    _points(axes, *run.evaluated("eval_loss"), color=INK, label="all")
    _legend(axes)


def draw_grad_norm(axes: Axes, run: Run) -> None:
    """Gradient norm, with the steps that were skipped."""
    _title(axes, "Gradient norm", "before clipping")
    norm, skipped = run.column("grad_norm"), run.column("skipped") == 1
    _dots(axes, run.tokens, norm, color=COLORS[0])
    _line(axes, run.tokens, smooth(norm), color=COLORS[0])
    _fit(axes, run.tokens, norm)
    if skipped.any():
        low, high = axes.get_ylim()
        # Off the scale, or not a number: on the edge.
        shown = np.where(np.isfinite(norm), np.clip(norm, low, high), high)
        label = f"{skipped.sum()} skipped"
        axes.plot(*thin(run.tokens[skipped], shown[skipped]), "x", color=ALARM, clip_on=False, label=label)
        _legend(axes)


def draw_learning_rate(axes: Axes, run: Run) -> None:
    """Learning rate, from zero."""
    _title(axes, "Learning rate", "")
    _line(axes, run.tokens, run.column("learning_rate"), color=COLORS[0])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")


def draw_batch_and_sequence(axes: Axes, run: Run) -> None:
    """Tokens per batch on the left, sequence length on the right, both in powers of two."""
    _title(axes, "Batch and sequence", "")
    left = (axes, "batch_tokens", "tokens per batch", COLORS[0])
    right = (axes.twinx(), "sequence_length", "sequence length", COLORS[1])
    for side, name, label, color in (left, right):
        values = run.column(name)
        _line(side, run.tokens, values, color=color, drawstyle="steps-post")
        side.set_yscale("log", base=2)
        if np.isfinite(values).any():
            side.set_ylim(np.nanmin(values) / 2, np.nanmax(values) * 4)
        side.yaxis.set_major_formatter(lambda value, _: _binary(value))
        side.tick_params(axis="y", labelcolor=color)
        side.margins(x=0.01)
        side.set_ylabel(label, color=color)


def draw_throughput(axes: Axes, run: Run) -> None:
    """Tokens a second, without the steps that compiled."""
    _title(axes, "Throughput", "tokens per second")
    speed = np.where(np.isfinite(run.column("compile_s")), np.nan, run.column("tokens_per_s"))
    _dots(axes, run.tokens, speed, color=COLORS[0])
    _line(axes, run.tokens, smooth(speed), color=COLORS[0])
    _fit(axes, run.tokens, speed)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(lambda value, _: _decimal(value))


def _sample(lines: Sequence[bytes]) -> list[bytes]:
    """Evenly spaced lines of a long run, and all lines of which none may be missed.

    Parsing hundreds of thousands of lines would take seconds and keep the training thread from running
    meanwhile.
    """
    rare = (b'"eval_loss"', b'"compile_s"', b'"skipped": 1')  # a stage begins with a step that compiles
    stride = 1 + len(lines) // MAX_RECORDS
    last = len(lines) - 1
    return [line for at, line in enumerate(lines) if at % stride == 0 or at == last or any(mark in line for mark in rare)]


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred mean over a fiftieth of the values, fewer at the ends; what is not finite is left out."""
    finite, reach = np.isfinite(values), len(values) // 100
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    start, stop = np.clip(np.arange(len(values)) + np.array([[-reach], [reach + 1]]), 0, len(values))
    num = count[stop] - count[start]
    return np.where(num > 0, (total[stop] - total[start]) / np.maximum(num, 1), np.nan)


def thin(*columns: np.ndarray) -> list[np.ndarray]:
    """At most MAX_POINTS rows of the columns, evenly spaced, the first and the last among them."""
    num = len(columns[0])
    rows = np.unique(np.linspace(0, num - 1, min(num, MAX_POINTS)).round().astype(int))
    return [column[rows] for column in columns]


def _column(records: list[dict[str, float | str]], name: str) -> np.ndarray:
    return np.array([record.get(name, np.nan) for record in records], dtype=float)


def _dots(axes: Axes, tokens: np.ndarray, values: np.ndarray, *, color: str) -> None:
    axes.plot(*thin(tokens, values), ".", color=color, markersize=4, alpha=0.3, markeredgewidth=0)


def _line(axes: Axes, tokens: np.ndarray, values: np.ndarray, **style: str) -> None:
    marker = "o" if len(values) == 1 else ""  # a single step is no line yet
    axes.plot(*thin(tokens, values), marker=marker, markersize=5, linewidth=1.8, **style)


def _points(axes: Axes, tokens: np.ndarray, values: np.ndarray, *, color: str, label: str) -> None:
    """Evaluations: few enough to be seen one by one, until they are not."""
    size = 5 if len(values) <= 50 else 0
    axes.plot(*thin(tokens, values), "o-", color=color, label=label, linewidth=1, markersize=size, markeredgecolor="white")


def _fit(axes: Axes, tokens: np.ndarray, values: np.ndarray) -> None:
    """Scale the y axis to all but the highest hundredth of the values; those are marked on its upper edge."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    low, high = finite.min(), np.quantile(finite, 0.99)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    above = values > high + margin
    if above.any():
        edge = np.full(above.sum(), high + margin)
        axes.plot(*thin(tokens[above], edge), "^", color=FAINT, ms=4, markeredgewidth=0, clip_on=False)


def _title(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_ylabel(unit, color=FAINT)


def _legend(axes: Axes) -> None:
    """Beside the title, where it hides nothing; inside when it is longer."""
    num = len(axes.get_legend_handles_labels()[0])
    if num <= 3:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.02, 0.985),
            ncols=num,
            frameon=False,
            columnspacing=0.8,
            handlelength=1.4,
            handletextpad=0.4,
        )
    else:
        axes.legend(loc="upper center", ncols=1 + num // 8, framealpha=0.9, edgecolor="none")


def _mark_segments(axes: Axes, run: Run) -> None:
    for segment in run.segments:
        at = run.tokens[segment.steps.start]
        axes.axvline(at, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)


def _label_segments(axes: Axes, run: Run, *, font_size: float) -> None:
    """Name the stages at their beginnings, the longest first, as far as there is room."""
    low, high = axes.get_xlim()
    width_in = axes.get_position().width * SIZE[0]
    room = 1.3 * font_size / 72 * (high - low) / width_in  # a point is 1/72 inch
    labelled: list[float] = []
    for segment in sorted(run.segments, key=lambda segment: segment.steps.start - segment.steps.stop):
        at = run.tokens[segment.steps.start]
        if all(abs(at - other) > room for other in labelled):
            axes.annotate(
                segment.label,
                (at, 0.99),
                xycoords=("data", "axes fraction"),
                xytext=(2, 0),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="left",
                fontsize=font_size,
                color=segment.color,
            )
            labelled.append(at)


def _figure(panels: Sequence[Callable[[Axes, Run], None]], shape: tuple[int, int], run: Run, *, font_size: float) -> Figure:
    """The panels in a grid: light lines, no boxes, one size of type; the first names the stages."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=SIZE, dpi=DPI)
    (rows, columns), (width, height) = shape, (72 * inches / font_size for inches in SIZE)  # in ems
    figure.subplots_adjust(
        left=4.5 / width,
        right=1 - 4.5 / width,
        wspace=9 / (width / columns - 9),
        bottom=4 / height,
        top=1 - 3 / height,
        hspace=7 / (height / rows - 7),
    )
    main = [figure.add_subplot(*shape, place) for place, _ in enumerate(panels, 1)]
    for axes, draw in zip(main, panels, strict=True):
        draw(axes, run)
        axes.margins(x=0.01)
        _mark_segments(axes, run)
        axes.set_xlabel("tokens", color=FAINT)
        axes.xaxis.set_major_formatter(lambda value, _: _decimal(value))
        axes.grid(True, color="#e8e8e8", linewidth=0.8)
    for axes in figure.axes:
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=font_size)
        axes.minorticks_off()
    for text in figure.findobj(Text):
        text.set_fontsize(font_size)
    _label_segments(main[0], run, font_size=0.85 * font_size)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    """Write whole or not at all: someone may be looking at the file."""
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png")
    os.replace(partial, path)
    return path


def _decimal(count: float) -> str:
    """12.5B for 12,500,000,000."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def _binary(count: float) -> str:
    """8k for 8,192 and 16M for 2^24, as sequence lengths and batches are spoken of."""
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"

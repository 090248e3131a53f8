import json
import threading

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from llama3_jax.train import plots
from llama3_jax.train.plots import Run, plot_run, smooth, thin

STAGES = (("initial", "ramp-1", 2**20), ("initial", "ramp-2", 2**21), ("annealing", "anneal", 2**21))
PANELS = {"loss.png", "grad_norm.png", "learning_rate.png", "batch_and_sequence.png", "throughput.png", "summary.png"}


def steps(num):
    tokens = 0
    for step in range(1, num + 1):
        phase, stage, batch_tokens = STAGES[3 * (step - 1) // num]
        tokens += batch_tokens
        yield {
            "step": step,
            "phase": phase,
            "stage": stage,
            "tokens": tokens,
            "loss": 2 + 5 / step,
            "grad_norm": 0.5,
            "learning_rate": 3e-4,
            "sequence_length": 8192,
            "batch_tokens": batch_tokens,
            "tokens_per_s": 1e5,
            "skipped": 0,
        }


def evaluation(step, tokens):
    return {
        "step": step,
        "tokens": tokens,
        "eval_loss": 2.5,
        "bits_per_byte": 0.8,
        "eval_loss/wiki": 2.25,
        "eval_loss/code": 1.5,
    }


def write(directory, records):
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def drawn(draw, records):
    """The axes of one panel, and what it drew as (x, y) columns."""
    axes = Figure().add_subplot()
    draw(axes, Run(records))
    return axes, [np.asarray(line.get_data(), dtype=float) for line in axes.lines]


def test_a_run_with_evaluations_is_drawn_whole_at_readable_size(tmp_path):
    write(tmp_path, [*steps(30), evaluation(30, 30 * 2**20)])
    paths = plot_run(tmp_path)
    assert {path.name for path in paths} == PANELS | {"held_out.png"}
    assert set(paths) == set((tmp_path / "plots").iterdir())
    for path in paths:
        image = imread(path)
        assert image.shape[:2] == (900, 1600) and image.std() > 0.01


@pytest.mark.parametrize("num", [1, 2, 30])
def test_a_run_without_evaluations_is_drawn(tmp_path, num):
    write(tmp_path, steps(num))
    assert {path.name for path in plot_run(tmp_path)} == PANELS


def test_a_run_without_steps_draws_nothing(tmp_path):
    write(tmp_path, [evaluation(0, 0)])
    assert plot_run(tmp_path) == []


def test_records_with_no_number_or_no_field_are_drawn(tmp_path):
    write(
        tmp_path,
        [
            {"step": 1, "tokens": 10, "loss": "nan", "grad_norm": "inf", "skipped": 1},
            {"step": 2, "tokens": 20, "loss": 3.0},
        ],
    )
    assert {path.name for path in plot_run(tmp_path)} == PANELS


def test_a_thread_can_draw(tmp_path):
    write(tmp_path, steps(3))
    thread = threading.Thread(target=plot_run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert (tmp_path / "plots" / "summary.png").exists()


def test_a_very_long_run_is_sampled_but_keeps_its_boundaries_and_skipped_steps(tmp_path, monkeypatch):
    records = list(steps(200_000))
    begin = 66_667  # the second stage
    assert records[begin]["stage"] == "ramp-2" and records[begin - 1]["stage"] == "ramp-1"
    records[begin]["compile_s"] = 60.0
    records[1234].update(skipped=1, grad_norm="nan")
    write(tmp_path, records)
    seen = []
    monkeypatch.setattr(plots, "Run", lambda records: seen.append(Run(records)) or seen[0])
    plot_run(tmp_path)
    [run] = seen
    assert len(run.steps) < 25_000
    assert run.tokens[run.segments[1].steps.start] == records[begin]["tokens"]
    assert run.column("skipped").sum() == 1 and run.tokens[-1] == records[-1]["tokens"]


def test_stages_are_segments_in_a_row():
    run = Run(list(steps(30)))
    assert [(segment.label, segment.steps.start, segment.steps.stop) for segment in run.segments] == [
        ("initial/ramp-1", 0, 10),
        ("initial/ramp-2", 10, 20),
        ("annealing/anneal", 20, 30),
    ]


def test_throughput_leaves_out_steps_that_compiled():
    records = list(steps(4))
    records[2].update(compile_s=60.0, tokens_per_s=7.0)
    _, lines = drawn(plots.draw_throughput, records)
    assert all(7.0 not in line[1] for line in lines)


def test_skipped_steps_are_marked_and_counted():
    records = list(steps(100))
    records[7].update(skipped=1, grad_norm=float("nan"))
    records[50].update(skipped=1)
    axes, lines = drawn(plots.draw_grad_norm, records)
    tokens, height = lines[-1]
    assert list(tokens) == [records[7]["tokens"], records[50]["tokens"]] and np.isfinite(height).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2 skipped"]


def test_held_out_points_lie_on_the_loss_and_one_by_source():
    records = [*steps(30), evaluation(10, 12345), evaluation(20, 23456)]
    _, lines = drawn(plots.draw_loss, records)
    assert lines[-1].tolist() == [[12345, 23456], [2.5, 2.5]]
    axes, _ = drawn(plots.draw_held_out, records)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["code", "wiki", "all"]
    assert "0.800 bits per byte" in axes.get_ylabel()


def test_one_outlier_does_not_set_the_scale_but_is_marked():
    records = list(steps(1000))
    records[500]["loss"] = 1e6
    axes, lines = drawn(plots.draw_loss, records)
    assert axes.get_ylim()[1] < 10
    tokens, height = lines[-1]
    assert records[500]["tokens"] in tokens and height.max() <= axes.get_ylim()[1]


def test_smoothing_is_a_centred_mean_of_what_is_finite():
    values = np.arange(300.0)
    np.testing.assert_allclose(smooth(values)[3:-3], values[3:-3])
    values[150] = np.nan
    expected = np.mean([147, 148, 149, 151, 152, 153])
    np.testing.assert_allclose(smooth(values)[150], expected)
    assert np.isnan(smooth(np.full(5, np.nan))).all()


@pytest.mark.parametrize("num", [0, 1, 5000, 5001, 123_456])
def test_thinning_keeps_the_ends_and_few_points(num):
    x, y = thin(np.arange(num), np.arange(num) * 2.0)
    assert len(x) == min(num, 5000) and (y == 2.0 * x).all()
    assert num == 0 or (x[0], x[-1]) == (0, num - 1)

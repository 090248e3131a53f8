import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from llama3_jax.train.journal import Journal, read_metrics


def tensorboard(directory):
    """The run as the TensorBoard server reads it."""
    accumulator = EventAccumulator(str(directory / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(directory, tag):
    return [(event.step, event.tensor_proto.float_val[0]) for event in tensorboard(directory).Tensors(tag)]


def write_steps(directory, steps, *, resume_step=0, loss=1.0):
    with Journal(directory, resume_step=resume_step) as journal:
        for step in steps:
            journal.step({"step": step, "phase": "initial", "loss": loss})


def test_a_record_is_read_back_as_it_was_given(tmp_path):
    step = {"step": 1, "phase": "initial", "loss": 0.1, "tokens": 2**40}
    evaluation = {"step": 1, "eval_loss": 2.5, "eval_loss/wiki": 2.25}
    with Journal(tmp_path, resume_step=0) as journal:
        journal.step(step)
        journal.evaluation(evaluation)
    assert read_metrics(tmp_path / "metrics.jsonl") == [step, evaluation]


def test_a_record_is_on_disk_before_the_journal_is_closed(tmp_path):
    with Journal(tmp_path, resume_step=0) as journal:
        journal.step({"step": 1, "loss": 3.0})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}]
        assert scalars(tmp_path, "train/loss") == [(1, 3.0)]


def test_non_finite_numbers_are_valid_json_and_come_back_as_floats(tmp_path):
    with Journal(tmp_path, resume_step=0) as journal:
        journal.step({"step": 1, "phase": "inf?", "loss": math.nan, "grad_norm": math.inf, "learning_rate": -math.inf})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "phase": "inf?", "loss": "nan", "grad_norm": "inf", "learning_rate": "-inf"}
    [record] = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record.pop("loss"))
    assert record == {"step": 1, "phase": "inf?", "grad_norm": math.inf, "learning_rate": -math.inf}
    assert math.isnan(scalars(tmp_path, "train/loss")[0][1])


def test_numpy_scalars_are_recorded_as_numbers(tmp_path):
    with Journal(tmp_path, resume_step=0) as journal:
        journal.step({"step": np.int64(3), "loss": np.float32(0.5)})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "loss": 0.5}\n'


def test_resuming_drops_later_steps_so_that_each_occurs_once(tmp_path):
    write_steps(tmp_path, range(1, 9), loss=1.0)
    write_steps(tmp_path, range(6, 8), resume_step=5, loss=2.0)
    expected = [(step, 1.0) for step in range(1, 6)] + [(6, 2.0), (7, 2.0)]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["loss"]) for record in records] == expected
    assert scalars(tmp_path, "train/loss") == expected


def test_a_fresh_run_drops_everything(tmp_path):
    for loss in (1.0, 2.0):
        with Journal(tmp_path, resume_step=0) as journal:
            journal.evaluation({"step": 0, "eval_loss": loss})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "eval_loss": 2.0}]
    assert scalars(tmp_path, "evaluate/eval_loss") == [(0, 2.0)]


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b'{"step": 4, "phase": "\xe9', b"\0\0\0"])
def test_a_torn_last_line_is_skipped_by_readers_and_dropped_on_resuming(tmp_path, torn):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    write_steps(tmp_path, [4], resume_step=3)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4]


def test_a_bad_line_elsewhere_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match='"ste'):
        read_metrics(path)


def test_texts_go_to_samples_and_to_tensorboard_and_are_not_doubled_on_resuming(tmp_path):
    for resume_step in (0, 10):
        with Journal(tmp_path, resume_step=resume_step) as journal:
            if not resume_step:
                journal.samples(10, {"story": "Once upon"})
            journal.samples(20, {"story": "a time\n<b>there</b>", "code": "def f():"})
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00000010.txt", "00000020.txt"]
    sample = (tmp_path / "samples" / "00000020.txt").read_text()
    assert sample.count("a time\n<b>there</b>") == 1 and sample.count("def f():") == 1
    events = tensorboard(tmp_path).Tensors("samples/story")
    assert [(event.step, event.tensor_proto.string_val[0].decode()) for event in events] == [
        (10, "    Once upon"),
        (20, "    a time\n    <b>there</b>"),
    ]
    assert tensorboard(tmp_path).SummaryMetadata("samples/story").plugin_data.plugin_name == "text"


def test_a_full_disk_is_named_with_its_free_bytes(tmp_path):
    with Journal(tmp_path, resume_step=0) as journal:
        (tmp_path / "samples" / "00000001.partial").symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"{tmp_path} is full \([\d,]+ bytes free\)"):
            journal.samples(1, {"story": "Once upon"})

"""The journal of a run: what each step and each evaluation measured, written the moment it is known.

`metrics.jsonl` holds one JSON object a line, first written and read by everything else; TensorBoard event
files and text samples stand beside it. A record with "loss" is a training step, one with "eval_loss" an
evaluation. JSON has no number that is not finite, so those are the strings "nan", "inf" and "-inf";
`read_metrics` gives them back as floats.
"""

import errno
import json
import math
import numbers
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Journal:
    """Writes a run directory's `metrics.jsonl`, `samples/` and `tensorboard/`; a context manager.

    A process killed after its last checkpoint leaves records of steps that will run again. Opening at
    `resume_step` drops every record and sample of a later step (TensorBoard is told to do the same), so each
    step occurs once. A fresh run, `resume_step=0`, drops all. What belongs to step k, its evaluation
    included, is written before checkpoint k is, unless a signal asks for that checkpoint earlier.

    Args:
        directory: the run directory, made if missing.
        resume_step: the step of the checkpoint this process continues from; 0 for a fresh run.
        looked: whether evaluation and samples of `resume_step` were written before that checkpoint was; if
            not they are dropped too, for they may be there in part.
    Raises: OSError naming the directory and its free bytes when the disk is full, here and in every method.
    """

    def __init__(self, directory: Path, *, resume_step: int, looked: bool = True):
        self._directory = Path(directory)
        with _disk(self._directory):
            self._samples = self._directory / "samples"
            self._samples.mkdir(parents=True, exist_ok=True)
            metrics = self._directory / "metrics.jsonl"
            first_step = resume_step + 1 if resume_step else 0
            _drop_from(first_step, metrics, self._samples, looked)
            self._metrics = metrics.open("ab")
            self._events = _EventFile(self._directory / "tensorboard", first_step=first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with _disk(self._directory):
            self._metrics.close()
            self._events.close()

    def step(self, record: Mapping[str, float | str]) -> None:
        """Record a training step; "step" is required, numbers appear in TensorBoard as `train/<key>`."""
        self._write("train", record)

    def evaluation(self, record: Mapping[str, float | str]) -> None:
        """Record an evaluation; "step" is required, numbers appear in TensorBoard as `evaluate/<key>`."""
        self._write("evaluate", record)

    def samples(self, step: int, texts: Mapping[str, str]) -> None:
        """Write named texts to `samples/<step>.txt`, all or none, and show them in TensorBoard's text tab."""
        with _disk(self._directory):
            written = self._samples / f"{step:08d}.partial"
            written.write_text("".join(f"=== {name}\n{text}\n\n" for name, text in texts.items()), encoding="utf-8")
            os.replace(written, written.with_suffix(".txt"))
            for name, text in texts.items():
                self._events.text(step, f"samples/{name}", text)

    def has_samples(self, step: int) -> bool:
        return (self._samples / f"{step:08d}.txt").exists()

    def _write(self, group: str, record: Mapping[str, float | str]) -> None:
        step = int(record["step"])
        with _disk(self._directory):
            self._metrics.write(_line(record))
            self._metrics.flush()
            self._events.scalars(
                step,
                {
                    f"{group}/{name}": float(value)
                    for name, value in record.items()
                    if name != "step" and not isinstance(value, str)
                },
            )


class NoJournal:
    """Takes what a `Journal` takes and keeps nothing: that of the processes that do not speak for their job."""

    def __init__(self, directory: Path, *, resume_step: int, looked: bool = True):
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def step(self, record: Mapping[str, float | str]) -> None:
        pass

    def evaluation(self, record: Mapping[str, float | str]) -> None:
        pass

    def samples(self, step: int, texts: Mapping[str, str]) -> None:
        pass

    def has_samples(self, step: int) -> bool:
        return True


def read_metrics(path: Path) -> list[dict[str, float | str]]:
    """The records of a `metrics.jsonl`, in order; a last line torn by a kill is left out.

    Raises: ValueError if any other line is not JSON.
    """
    return parse_metrics(metrics_lines(path))


def metrics_lines(path: Path) -> list[bytes]:
    """The lines of a `metrics.jsonl`, for readers who want to choose among very many before parsing; no torn
    last one."""
    lines = Path(path).read_bytes().splitlines()
    return lines if not lines or _is_json(lines[-1]) else lines[:-1]


def parse_metrics(lines: Sequence[bytes]) -> list[dict[str, float | str]]:
    """The records in whole lines of a `metrics.jsonl`. Raises: ValueError if a line is not JSON."""
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")  # one call: three times as fast as one a line
    except ValueError:
        bad = next(line for line in lines if not _is_json(line))
        message = f"a line of metrics.jsonl is not JSON; delete it to read the others: {bad[:80]!r}"
        raise ValueError(message) from None
    for record, line in zip(records, lines, strict=True):
        if b'nan"' in line or b'inf"' in line:
            record.update({name: NON_FINITE[value] for name, value in record.items() if value in NON_FINITE})
    return records


def stage_label(record: Mapping[str, float | str]) -> str:
    """Where in the run a step was: "phase/stage", or what of it the record says."""
    return "/".join(str(record[name]) for name in ("phase", "stage") if name in record)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _line(record: Mapping[str, float | str]) -> bytes:
    plain = {name: _plain(value) for name, value in record.items()}
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def _plain(value: float | str) -> float | str:
    """A value JSON can hold, NumPy scalars included."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else str(float(value))


def _drop_from(first_step: int, metrics: Path, samples: Path, looked: bool) -> None:
    """Remove what an earlier process wrote about `first_step` and later, a line it tore, and what it saw after the step
    before if it may not have `looked` at everything there."""
    first_look = first_step if looked else first_step - 1
    for sample in samples.glob("[0-9]" * 8 + ".*"):
        if int(sample.stem) >= first_look or sample.suffix != ".txt":
            sample.unlink()
    if not metrics.exists():
        return
    kept = [
        record
        for record in read_metrics(metrics)
        if record.get("step", first_step) < (first_step if "loss" in record else first_look)
    ]
    rewritten = metrics.with_suffix(".jsonl.partial")
    with rewritten.open("wb") as file:
        for record in kept:
            file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())
    os.replace(rewritten, metrics)


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    """Turn "no space left" into an error that says where and how much is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free_bytes = shutil.disk_usage(directory).free
        message = (
            f"the disk of {directory} is full ({free_bytes:,} bytes free); make room and run the same "
            "command to continue from the last checkpoint"
        )
        raise OSError(error.errno, message) from error


class _EventFile:
    """One TensorBoard event file.

    Uses TensorBoard's record writer, not its `EventFileWriter`: that one imports TensorFlow wherever it is
    installed, and learns of a full disk on another thread.
    """

    def __init__(self, directory: Path, *, first_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._string_tensor = lambda text: tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, tensor_shape={}, string_val=[text.encode()]
        )
        self._text_metadata = create_summary_metadata(display_name="", description="")
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"  # read in order of name
        self._writer = RecordWriter((directory / name).open("xb"))
        self._add(file_version="brain.Event:2")
        # Readers forget the events of `first_step` and later when they meet this one.
        self._add(step=first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._add(
            step=step,
            summary=self._summary(value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]),
        )

    def text(self, step: int, tag: str, text: str) -> None:
        # Shown as Markdown, where an indented text is verbatim.
        verbatim = "\n".join("    " + line for line in text.splitlines())
        self._add(
            step=step,
            summary=self._summary(
                value=[self._summary.Value(tag=tag, metadata=self._text_metadata, tensor=self._string_tensor(verbatim))]
            ),
        )

    def close(self) -> None:
        self._writer.close()

    def _add(self, **fields: object) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

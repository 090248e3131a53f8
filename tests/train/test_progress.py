import io
import re

import pytest

from llama3_jax.train.progress import Progress, TimeLeft, format_duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(step, stage="ramp-2", **more):
    return {
        "step": step,
        "phase": "initial",
        "stage": stage,
        "loss": 5.1234,
        "tokens_per_s": 12345.4,
        "learning_rate": 3e-4,
        "tokens": 100 * step,
        **more,
    }


def test_plain_lines_say_where_the_run_is_and_when_it_ends():
    clock, stream = Clock(), io.StringIO()
    with Progress(640, first_step=119, total_tokens=64000, stream=stream, every_s=0.0, clock=clock) as progress:
        progress.step(119, record(119))
        clock.now += 0.25
        progress.step(120, record(120))
    assert stream.getvalue().splitlines() == [
        "step 119/640  initial/ramp-2  loss 5.123  12,345 tok/s  lr 3.0e-04",
        "step 120/640  initial/ramp-2  loss 5.123  12,345 tok/s  lr 3.0e-04  2m10s left",
    ]


def test_plain_lines_are_spaced_but_keep_the_first_stage_changes_and_the_last():
    clock, stream = Clock(), io.StringIO()
    with Progress(50, first_step=1, total_tokens=5000, stream=stream, clock=clock) as progress:
        for step in range(1, 51):
            clock.now += 1.0
            progress.step(step, record(step, stage="ramp-1" if step < 25 else "ramp-2"))
    assert re.findall(r"step (\d+)/", stream.getvalue()) == ["1", "11", "21", "25", "35", "45", "50"]


def test_the_step_at_which_a_run_is_stopped_is_shown():
    stream = io.StringIO()
    progress = Progress(50, first_step=1, stream=stream, clock=Clock())
    with pytest.raises(KeyboardInterrupt), progress:
        for step in (1, 2, 3):
            progress.step(step, record(step))
        raise KeyboardInterrupt
    assert re.findall(r"step (\d+)/", stream.getvalue()) == ["1", "3"]


def test_plain_output_has_no_control_characters(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Progress(2, first_step=1, stream=stream) as progress:
        progress.message("saved [bold]checkpoints/1[/bold]")
        progress.step(1, {"step": 1})
        progress.step(2, record(2, loss=float("nan")))
    text = stream.getvalue()
    assert "saved [bold]checkpoints/1[/bold]\n" in text and "loss nan" in text
    assert re.search(r"[\x00-\x09\x0b-\x1f]", text) is None


def test_a_terminal_shows_a_bar_and_messages_verbatim(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    with Progress(640, first_step=120, total_tokens=64000, stream=stream) as progress:
        progress.step(120, record(120))
        progress.message("saved [red]checkpoints/120")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    for shown in ("initial/ramp-2", "120/640", "loss 5.123", "12,345 tok/s", "saved [red]checkpoints/120"):
        assert shown in text


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    with Progress(640, first_step=1, stream=stream) as progress:
        progress.step(1, record(1))
    assert stream.getvalue() == "step 1/640  initial/ramp-2  loss 5.123  12,345 tok/s  lr 3.0e-04\n"


def run(time_left, clock, *, work_left, work, seconds, steps, stage="a"):
    for _ in range(steps):
        clock.now += seconds
        work_left -= work
        left_s = time_left.update(work_left, stage=stage, paused=False)
    return work_left, left_s


def test_time_left_is_unmoved_by_compiling():
    clock = Clock()
    time_left = TimeLeft(clock)
    work_left, _ = run(time_left, clock, work_left=10_000, work=10, seconds=1.0, steps=20)
    clock.now += 300.0
    assert time_left.update(work_left - 10, stage="a", paused=True) == pytest.approx((work_left - 10) / 10)
    _, left_s = run(time_left, clock, work_left=work_left - 10, work=10, seconds=1.0, steps=1)
    assert left_s == pytest.approx(978.0)


def test_time_left_is_not_known_from_a_compiling_step_alone():
    clock = Clock()
    time_left = TimeLeft(clock)
    assert time_left.update(100, stage="a", paused=True) is None
    clock.now += 60.0
    assert time_left.update(90, stage="a", paused=True) is None


def test_time_left_adopts_the_rate_of_a_new_stage_within_a_few_steps():
    clock = Clock()
    time_left = TimeLeft(clock)
    work_left, _ = run(time_left, clock, work_left=100_000, work=10, seconds=1.0, steps=200)
    work_left, left_s = run(time_left, clock, work_left=work_left, work=20, seconds=1.0, steps=5, stage="b")
    assert left_s == pytest.approx(work_left / 20, rel=0.2)


def test_time_left_counts_pauses_between_steps_at_their_share():
    clock = Clock()
    time_left = TimeLeft(clock)
    work_left = 100_000
    for _ in range(20):
        work_left, left_s = run(time_left, clock, work_left=work_left, work=10, seconds=1.0, steps=10)
        clock.now += 5.0  # an evaluation after every tenth step
    assert left_s == pytest.approx(work_left * 1.5 / 10, rel=0.1)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (130, "2m10s"),
        (3599.7, "1h00m"),
        (11_100, "3h05m"),
        (86_400 * 2 + 7 * 3600 + 5, "2d07h"),
    ],
)
def test_durations_read_in_their_two_largest_units(seconds, text):
    assert format_duration(seconds) == text

import pytest

from llama3_jax.train.goodput import Goodput


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def goodput(clock):
    return Goodput(clock)


def test_an_inner_span_is_not_counted_to_the_outer(goodput, clock):
    clock.sleep(1)
    with goodput.span("evaluate"):
        clock.sleep(10)
        with goodput.span("compile"):
            clock.sleep(100)
        clock.sleep(20)
    clock.sleep(2)
    assert goodput.report() == {"compile": 100, "evaluate": 30, "other": 3}
    assert goodput.total_s == 133


def test_spans_of_one_name_add_up_nested_too(goodput, clock):
    for _ in range(3):
        with goodput.span("step"):
            clock.sleep(2)
            with goodput.span("step"):
                clock.sleep(1)
    assert goodput.report() == {"step": 9, "other": 0}


def test_a_span_left_by_an_exception_is_closed(goodput, clock):
    with pytest.raises(RuntimeError), goodput.span("step"):
        clock.sleep(5)
        raise RuntimeError
    clock.sleep(7)
    assert goodput.report() == {"other": 7, "step": 5}


def test_an_open_span_is_reported_so_far(goodput, clock):
    with goodput.span("step"):
        clock.sleep(5)
        assert goodput.report() == {"step": 5, "other": 0}
        clock.sleep(5)
    assert goodput.report() == {"step": 10, "other": 0}


def test_the_table_is_sorted_aligned_and_adds_up(goodput, clock):
    for name, seconds in (("checkpoint", 50), ("step", 1440)):
        with goodput.span(name):
            clock.sleep(seconds)
    clock.sleep(10)
    lines = goodput.table().splitlines()
    assert [line.split() for line in lines] == [
        ["step", "1,440.0", "s", "96.0%"],
        ["checkpoint", "50.0", "s", "3.3%"],
        ["other", "10.0", "s", "0.7%"],
        ["total", "1,500.0", "s", "100.0%"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_a_table_of_no_time_at_all_can_be_printed(goodput):
    assert "total" in goodput.table()

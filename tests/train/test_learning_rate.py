"""The learning rate as a function of the step of a run: what is reached where, and across phases."""

import math

import pytest

from llama3_jax.train.learning_rate import Continue, LinearTo, WarmupCosine, learning_rates

# section 3.4.1, the 405B model
PAPER = WarmupCosine(peak=8e-5, final=8e-7, warmup_steps=8000, steps=1_200_000)


def test_warm_up_and_cosine_reach_their_ends():
    rate = learning_rates([(PAPER, 1_200_000)])
    assert rate(0) == pytest.approx(8e-5 / 8000)
    assert rate(3999) == pytest.approx(4e-5)
    assert rate(7999) == rate(8000) == pytest.approx(8e-5)
    assert rate((8000 + 1_200_000) // 2) == pytest.approx((8e-5 + 8e-7) / 2)
    assert rate(1_200_000) == rate(2_000_000) == pytest.approx(8e-7)
    assert all(rate(step) >= rate(step + 1000) for step in range(8000, 1_300_000, 1000))


def test_no_warm_up_begins_at_the_peak():
    rate = learning_rates([(WarmupCosine(peak=1.0, final=0.0, warmup_steps=0, steps=10), 10)])
    assert rate(0) == 1.0
    assert rate(5) == pytest.approx(0.5)


def test_continue_is_seamless():
    """Two and three phases that continue are one phase."""
    curve = WarmupCosine(peak=1.0, final=0.1, warmup_steps=4, steps=50)
    whole = learning_rates([(curve, 50)])
    cut = learning_rates([(curve, 20), (Continue(), 13), (Continue(), 17)])
    assert [cut(step) for step in range(60)] == [whole(step) for step in range(60)]


def test_linear_reaches_its_end_exactly_at_the_last_step():
    curve = WarmupCosine(peak=1.0, final=0.5, warmup_steps=0, steps=20)
    rate = learning_rates([(curve, 20), (LinearTo(final=0.0), 5)])
    top = 0.5
    assert [rate(step) for step in range(20, 25)] == pytest.approx([top * left / 5 for left in (4, 3, 2, 1, 0)])
    assert rate(24) == 0.0
    assert rate(19) > rate(20) > rate(21)


def test_linear_takes_off_where_the_phase_before_would_be():
    curve = WarmupCosine(peak=1.0, final=0.0, warmup_steps=0, steps=100)
    rate = learning_rates([(curve, 30), (Continue(), 20), (LinearTo(final=0.2), 10)])
    top = 0.5 * (1 + math.cos(math.pi * 0.5))
    assert rate(49) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.49)))
    assert rate(50) == pytest.approx(top + (0.2 - top) / 10)
    assert rate(59) == pytest.approx(0.2)


def test_a_new_curve_counts_from_its_own_phase():
    first, second = (WarmupCosine(peak=peak, final=0.0, warmup_steps=2, steps=10) for peak in (1.0, 3.0))
    rate = learning_rates([(first, 10), (second, 10), (LinearTo(final=1.0), 4)])
    alone = learning_rates([(second, 10)])
    assert [rate(10 + step) for step in range(10)] == [alone(step) for step in range(10)]
    assert [rate(20 + step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WarmupCosine(peak=1.0, final=2.0, warmup_steps=0, steps=10), "final=2.0 and peak=1.0"),
        (lambda: WarmupCosine(peak=1.0, final=-1.0, warmup_steps=0, steps=10), "final=-1.0"),
        (lambda: WarmupCosine(peak=1.0, final=0.0, warmup_steps=10, steps=10), "warmup_steps=10 and steps=10"),
        (lambda: WarmupCosine(peak=1.0, final=0.0, warmup_steps=-1, steps=10), "warmup_steps=-1"),
        (lambda: LinearTo(final=-0.1), "final=-0.1"),
    ],
)
def test_what_a_rule_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()

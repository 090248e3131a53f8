"""A gate asks for no more than it says, and what it decided is told."""

import json
from dataclasses import asdict

import pytest

from llama3_jax.train.gate import Gate, PhaseEnd


def ended(increase, max_increase):
    return PhaseEnd(phase="long_context", eval_loss=2.0, increase=increase, max_increase=max_increase)


@pytest.mark.parametrize("increase, passed", [(-1.0, True), (0.0, True), (0.05, True), (0.0501, False), (float("nan"), False)])
def test_a_model_that_lost_more_than_allowed_does_not_pass(increase, passed):
    end = ended(increase, 0.05)
    assert end.passed == passed and end.record()["gate_passed"] == passed
    assert ("NOT PASSED" in str(end)) != passed


def test_a_negative_increase_asks_for_progress():
    assert not ended(0.0, -0.1).passed and ended(-0.2, -0.1).passed


def test_without_a_gate_every_model_passes_and_nothing_is_recorded():
    end = PhaseEnd(phase="initial", eval_loss=9.0)
    assert end.passed and end.record() == {}


def test_a_decision_comes_back_from_json_as_it_was():
    for end in (ended(1 / 3, 0.05), PhaseEnd(phase="initial", eval_loss=0.1)):
        assert PhaseEnd(**json.loads(json.dumps(asdict(end)))) == end


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_threshold_is_a_number(wrong):
    with pytest.raises(ValueError, match="max_increase"):
        Gate(max_increase=wrong)

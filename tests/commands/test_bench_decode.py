"""`llama3 bench decode` measures attention on pages beside the speed of memory, and refuses what it cannot measure."""

import re

import pytest

from llama3_jax.commands.main import main

TINY = ["shapes=[{requests: 2, positions: 100, num_heads: 4, num_kv_heads: 2, head_dim: 16, page: 16}]", "rounds=1"]


@pytest.fixture(autouse=True)
def small_and_without_pauses(monkeypatch):
    monkeypatch.setattr("llama3_jax.bench.timed.SETTLE_S", 0)
    monkeypatch.setattr("llama3_jax.bench.decode.READ_BYTES", {"cpu": 2**22})


def test_the_report(capsys):
    assert main(["bench", "decode", *TINY]) == 0
    report = capsys.readouterr().out
    assert re.search(r"memory read at [\d.,e+]+ GB/s", report)
    assert "2 requests of 100 positions on pages of 16, 4 heads over 2, of 16: 0 MB of keys and values; attention xla" in report
    assert re.search(r"^  2 requests of 100 .* of 16 \(seed \d+\): \d\.\de-0[67]$", report, re.M)
    for name in ("llama3_jax, from pages", "gathered first"):
        assert re.search(rf"^{name} +[\d,]+ +\d+% +[\d.,e-]+ +\d+% +[\d.]+x$", report, re.M)


@pytest.mark.parametrize(
    "override, why",
    [
        ("rounds=0", "rounds=0; use 1 or more"),
        ("shapes=[]", "shapes needs an entry"),
        ("shapes.0.num_heads=3", "do not group"),
        ("shapes.0.page=0", "page=0"),
    ],
)
def test_bad_input(override, why, capsys):
    assert main(["bench", "decode", override]) == 2
    assert why in capsys.readouterr().err


@pytest.fixture
def wrong(monkeypatch):
    """Attention from pages that is wrong, and a shape that no other test has compiled."""
    monkeypatch.setattr("llama3_jax.bench.decode.paged_attention", lambda q, *_: 1.001 * q)
    return [TINY[0].replace("100", "60"), "rounds=1", "seed=7"]


def test_what_is_wrong_is_not_timed(wrong, capsys):
    assert main(["bench", "decode", *wrong]) == 1
    told = capsys.readouterr()
    assert "one layer" not in told.out
    assert "from float64, rounding makes 1e-05 of float32 at most; use seed=7 to see it again" in told.err


def test_ways_that_do_not_agree_are_not_compared(wrong, monkeypatch, capsys):
    monkeypatch.setattr("llama3_jax.bench.float64.largest_error", lambda dtype: float("inf"))
    assert main(["bench", "decode", *wrong]) == 1
    assert "they do not do the same work" in capsys.readouterr().err

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


def test_ways_that_do_not_agree_are_not_compared(monkeypatch, capsys):
    monkeypatch.setattr("llama3_jax.bench.decode.paged_attention", lambda q, *_: q)
    assert main(["bench", "decode", *TINY]) == 1
    assert "they do not do the same work" in capsys.readouterr().err

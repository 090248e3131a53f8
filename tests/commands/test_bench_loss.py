"""`llama3 bench loss` compares the same loss computed two ways, and the chunked one needs less memory."""

import re

from llama3_jax import commands
from llama3_jax.commands.main import main

TINY = ["length=2048", "model_dim=8", "vocab_size=500", "rounds=1"]


def test_the_report(capsys):
    assert main(["bench", "loss", *TINY]) == 0
    report = capsys.readouterr().out
    assert report.startswith("1 x 2,048 positions of width 8, 500 entries, float32, 1 rounds")
    for name in ("llama3_jax, in chunks", "all logits at once"):
        assert re.search(rf"^{name} +[\d.]+ +\d+ +[\d.]+ +[\d.]+x +[\d.]+x$", report, re.M)


def test_the_same_loss_with_less_memory():
    ours, plain = commands.bench_loss(overrides=TINY)
    assert abs(ours.loss - plain.loss) < 1e-5 * plain.loss
    assert ours.temp_bytes < plain.temp_bytes / 2


def test_bad_input(capsys):
    assert main(["bench", "loss", "rounds=0"]) == 2 and "rounds=0; use 1 or more" in capsys.readouterr().err

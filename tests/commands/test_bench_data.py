"""`llama3 bench data` measures every loader on the same shards, and says what each packing policy wastes and cuts."""

import re

import pytest

from llama3_jax import commands
from llama3_jax.batches.packing import Packing
from llama3_jax.bench.loaders import Ours, PlainGrain, TorchtitanStyle, write_random_shards
from llama3_jax.commands.main import main

TINY = ["num_documents=400", "mean_tokens=60", "sequence_length=128", "rows_per_batch=2", "num_batches=20", "rounds=1"]
NAMES = [*(f"llama3_jax, {packing.value}" for packing in Packing), PlainGrain.name, TorchtitanStyle.name]


def test_the_report(capsys):
    assert main(["bench", "data", *TINY]) == 0
    report = capsys.readouterr().out
    assert re.match(r"shards: 400 documents, 2\d,\d{3} tokens", report)
    for name in NAMES:
        row = re.search(rf"^{re.escape(name)} +([\d.]+) +([\d.]+) +([\d.]+)x$", report, re.M)
        assert row and float(row[1]) > 0 and float(row[2]) > 0, report
    assert re.search(r"^concatenate +0\.00% +0\.00% +\d+\.\d%", report, re.M)
    assert re.search(r"^crop +\d\.\d\d% +[1-9]\d*\.\d\d% ", report, re.M)


def test_on_shards_of_ones_own(tmp_path):
    write_random_shards(tmp_path, num_documents=100, mean_tokens=50)
    result = commands.bench_data(overrides=[*TINY, f"shards=[{tmp_path}/*.arrayrecord]"])
    assert (result.num_documents, [rate.name for rate in result.rates]) == (100, NAMES)
    assert result.tallies["best_fit"].dropped == 0 < result.tallies["crop"].dropped
    with pytest.raises(FileNotFoundError, match="no token shard at"):
        commands.bench_data(overrides=[*TINY, "shards=[nowhere/*.arrayrecord]"])


def test_loaders_give_batches_of_the_same_shape_from_the_same_documents(tmp_path):
    shards = write_random_shards(tmp_path, num_documents=60, mean_tokens=40)
    known = {int(token) for shard in shards for number in range(len(shard)) for token in shard[number]}
    loaders = [Ours(shards, packing, 2, 64, 10) for packing in Packing]
    for loader in [*loaders, PlainGrain(shards, 2, 64), TorchtitanStyle(shards, 2, 64)]:
        batches = loader.batches()
        for tokens, _ in zip(batches, range(10), strict=False):
            assert tokens.shape == (2, 64) and set(tokens.ravel().tolist()) <= known | {0}
        batches.close()

"""`llama3 bench attention` measures what runs here on the same arrays, tunes the table of tiles, and says what it predicts."""

import json
import re
from importlib import import_module

import jax
import pytest

from llama3_jax import commands
from llama3_jax.bench import attention
from llama3_jax.commands.main import main
from llama3_jax.kernels.attention import block_sizes
from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.implementation import Implementation


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("llama3_jax.bench.timed.SETTLE_S", 0)


SHAPE = "shapes=[{rows: 2, length: 512, num_heads: 4, num_kv_heads: 2, head_dim: 16}]"
TINY = [SHAPE, "mean_tokens=[null, 60]", "rounds=1"]


def test_the_report(capsys):
    assert main(["bench", "attention", *TINY]) == 0
    report = capsys.readouterr().out
    assert "2 x 512 positions, 4 heads over 2, of 16; one document a row: 100.0% of causal pairs visible" in report
    assert re.search(r"documents of 60 tokens on average: \d?\d\.\d% of causal pairs visible", report)
    for name in ("llama3_jax xla", "llama3_jax reference", "jax.nn.dot_product_attention"):
        numbers = r" +[\d.]+ +[\d.e-]+ +-?[\d.]+ +-?[\d.e-]+ +[\d.]+ +([\d.e-]+) +([\d.e-]+) +\d+% +(\d+)% +[\d.]+x"
        lines = re.findall(rf"^{re.escape(name)}{numbers}$", report, re.M)
        assert len(lines) == 2
        for visited, causal, share in lines:
            assert float(visited) / float(causal) == pytest.approx(float(share) / 100, rel=0.03), "per second, the same time"
    assert len(re.findall(r"^schedule, once a batch: [\d.]+ ms, [\d.]+% of one layer's time$", report, re.M)) == 2
    right = r"^  1 x 512 positions.* \(seed (\d+)\): out (\S+), gradient of q (\S+), of k (\S+), of v (\S+)$"
    (one, *errors), (other, *_) = re.findall(right, report, re.M)
    assert one != other, "fresh inputs for each"
    assert all(0 < float(error) < 2e-6 for error in errors)
    assert re.search(r"^ours takes [\d.]+x the time of one document a row times the \d+\.\d% of its visits", report, re.M)
    assert re.search(r"made here \(forward [\d.]+x, backward -?[\d.]+x\)$", report, re.M)


def test_who_is_blind_to_documents_is_called_so_and_compared_on_whole_rows_alone(monkeypatch, capsys):
    def contenders(shape, dtype):
        yield attention.ours(shape, Implementation.XLA, dtype)

        def causal(q_BSNH, k_BSKH, v_BSKH, _):
            return bias * jax.nn.dot_product_attention(q_BSNH, k_BSKH, v_BSKH, is_causal=True)

        yield attention.Contender("causal", lambda ids: ids, causal, lambda _: 1.0, sees_documents=False)

    monkeypatch.setattr(attention, "contenders", contenders)
    bias = 1
    assert main(["bench", "attention", *TINY]) == 0
    assert re.findall(r"^causal(.*?)  ", capsys.readouterr().out, re.M) == ["", ", blind to documents"]
    bias = 1.01
    assert main(["bench", "attention", *TINY]) == 1
    assert "causal and llama3_jax xla differ by 1.0e-02: they do not do the same work" in capsys.readouterr().err


def test_what_is_wrong_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr("llama3_jax.bench.attention.flash_attention", lambda q_BSNH, *_: 1.001 * q_BSNH)
    assert main(["bench", "attention", *TINY, "seed=7"]) == 1
    told = capsys.readouterr()
    assert "forward ms" not in told.out, "all cases are compared before the first is timed"
    assert "from float64, rounding makes 1e-05 of float32 at most; use seed=7 to see it again" in told.err


@pytest.mark.slow
def test_what_is_visited_is_what_the_documents_need():
    whole, packed = commands.bench_attention(overrides=TINY)
    assert whole.causal_pairs == whole.visible_pairs == 2 * 512 * 513 / 2 > packed.visible_pairs > 0
    (ours, *others), (packed_ours, *packed_others) = whole.measured, packed.measured
    assert ours.visited_pairs == 2 * 3 * 256**2
    assert {each.visited_pairs for each in (*others, *packed_others)} == {2 * 512**2}, "they visit everything"
    assert packed.visible_pairs < packed_ours.visited_pairs <= ours.visited_pairs


@pytest.mark.slow
def test_tuned_tiles_are_kept_in_the_table_and_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(block_sizes, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(import_module("llama3_jax.commands.bench_attention"), "CANDIDATES", (128, 256))
    kept = {"implementation": "tpu", "chip": "TPU v5", "head_dim": 16, "group": 2, "length": 512, "queries": 512, "keys": 1024}
    block_sizes.TABLE.write_text(json.dumps({"rows": [kept]}))
    block_sizes.table.cache_clear()
    for _ in range(2):
        assert main(["bench", "attention", "--tune", *TINY, "mean_tokens=[60]"]) == 0
    block_sizes.table.cache_clear()
    rows = json.loads(block_sizes.TABLE.read_text())["rows"]
    assert kept in rows and len(rows) == 2, "redone, not added to; other chips' stay"
    (row,) = [row for row in rows if row != kept]
    best = re.findall(r"tiles of (\d+) queries and (\d+) keys", capsys.readouterr().out)[-1]
    assert (row["queries"], row["keys"]) == tuple(map(int, best)) and row["chip"] == "cpu"
    how = {"head_dim": 16, "group": 2, "num_queries": 512, "num_keys": 512}
    assert block_sizes.block_sizes(Implementation.XLA, chip="cpu", **how) == BlockSizes(row["queries"], row["keys"])
    assert block_sizes.block_sizes(Implementation.TPU, chip="TPU v5", **how) == BlockSizes(512, 512), "no longer than the row"
    longer = block_sizes.block_sizes(Implementation.XLA, chip="cpu", **{**how, "num_keys": 4096, "num_queries": 4096})
    assert longer == BlockSizes(256, 256), "rows that were not measured have the sizes that are worked out"
    block_sizes.table.cache_clear()


@pytest.mark.compiled
def test_predictions_are_called_so(capsys):
    pytest.importorskip("libtpu")
    shape = "shapes=[{rows: 1, length: 8192, num_heads: 32, num_kv_heads: 8, head_dim: 128}]"
    assert main(["bench", "attention", "--predict", "v6e", shape]) == 0
    report = capsys.readouterr().out
    assert report.startswith("PREDICTIONS for v6e, nothing is measured")
    whole, packed = map(float, re.findall(r"at least ([\d.]+) ms", report))
    assert 9 * 2 * 32 * 128 * 8192 * 8193 / 2 / 918e12 * 1e3 < whole < 1.2 * packed * 100 and packed < whole
    assert report.count("3 kernels") == 2


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["attention", "--predict", "v99"], "--predict v99; use one of v5p, v6e"),
        (["train", "--tune"], "are for llama3 bench attention"),
        (["attention", "rounds=0"], "rounds=0; use 1 or more"),
        (["attention", "shapes=[]"], "need an entry each"),
        (["attention", "shapes=[{rows: 1, length: 8, num_heads: 3, num_kv_heads: 2, head_dim: 4}]"], "do not group"),
    ],
)
def test_bad_input(arguments, why, capsys):
    assert main(["bench", *arguments]) in (1, 2)
    assert why in capsys.readouterr().err


def test_kernels_of_one_tile_size_are_not_tuned(monkeypatch, capsys):
    monkeypatch.setattr("llama3_jax.kernels.attention.choice.choose", lambda *_, **__: Implementation.HOPPER)
    assert main(["bench", "attention", "--tune", *TINY]) == 1
    assert "tiles of BlockSizes(queries=128, keys=128): there is nothing to tune" in capsys.readouterr().err

"""`llama3 curate`: what becomes of every document of a small crawl, and that it is the same however it was made."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from crawl import RUN, write_crawl

from llama3_jax.commands.curate import compose, run_curation
from llama3_jax.commands.train import compose as compose_training


def run(crawl, runs, *overrides):
    config = crawl / "run.yaml"
    config.write_text(RUN)
    return run_curation(compose(config, overrides, root=str(crawl)), runs)


def files_of(directory):
    """Every file of the stages by its hash."""
    stages = Path(directory) / "stages"
    return {
        str(p.relative_to(stages)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(stages.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    return write_crawl(tmp_path_factory.mktemp("crawl"))


@pytest.fixture(scope="module")
def curated(crawl, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run(crawl, runs), runs / "small"


def rejected(directory):
    """id -> (stage, reason, detail) of everything that was left out."""
    found = {}
    for path in Path(directory).rglob("rejected.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert row["id"] not in found, row
            found[row["id"]] = (row["stage"], row["reason"], row["detail"])
    return found


def facts_of(curated, stage):
    return next(outcome.facts for outcome in curated.outcomes if outcome.stage == stage)


def kept(curated):
    return {row["id"]: row for partition in curated.partitions for row in pq.read_table(partition.path).to_pylist()}


def test_every_document_is_kept_or_rejected_with_its_reason(curated):
    result, directory = curated
    lost, stays = rejected(directory), kept(result)
    assert not lost.keys() & stays.keys()
    for outcome in result.outcomes:
        facts = outcome.facts
        gone = sum(group["documents"] for group in facts["rejected"].values())
        assert facts["documents_in"] == facts["kept"]["documents"] + gone, outcome.stage
    first, last = result.outcomes[0].facts, result.outcomes[-1].facts
    assert first["documents_in"] == len(lost) + len(stays)
    assert last["kept"]["documents"] == len(stays)


def test_each_stage_finds_what_is_there_for_it(curated):
    result, directory = curated
    lost, stays = rejected(directory), kept(result)
    assert lost["urn:test:https:__site1.org_page_12024-01-01T00:00:00Z"][:2] == ("urls", "older_version")
    assert lost["urn:test:https:__adult.example.com_a2024-01-01T00:00:00Z"] == ("domains", "domain.adult", "adult.example.com")
    assert lost["the same"] == ("exact_duplicates", "exact_duplicate", "original")
    assert {"original", "nearly the same"} & lost.keys() and {"original", "nearly the same"} & stays.keys()
    assert lost["log"][:2] == ("heuristics", "repetition.coverage")
    assert lost["exam"][1:] == ("contamination.long_ngrams", "exam")
    assert "Write to <email> for it." in stays["mail"]["text"]
    reasons = {reason for stage, reason, _ in lost.values() if stage == "read"}
    assert reasons == {"bad_json", "no_text_field", "bad_record"}
    assert not any("weekly letter" in row["text"] for row in stays.values() if row["source"] == "web")
    assert facts_of(result, "lines")["removed_lines"]["top"][0]["occurrences"] == 23  # of 24 pages, one is an older version
    assert "Home" not in stays["urn:test:https:__site2.org_page_22024-01-01T00:00:00Z"]["text"]


def test_it_does_not_matter_how_much_is_held_at_a_time(crawl, curated, tmp_path, monkeypatch):
    """Shuffles in many buckets, archives in many parts, partitions of a few pages."""
    monkeypatch.setattr("llama3_jax.curation.shuffle.ROWS_PER_BUCKET", 20)
    result, directory = curated
    pieces = run(crawl, tmp_path, "reading.piece_bytes=2048", "reading.partition_bytes=4096")
    assert len(pieces.partitions) > 3 * len(result.partitions)
    for step in ("read/text", "lines/frequent", "near_duplicates/edges", "exact_duplicates/groups"):
        assert len(list((tmp_path / "small/stages" / step).iterdir())) > len(list((directory / "stages" / step).iterdir())), step
    assert kept(pieces) == kept(result)
    assert rejected(tmp_path / "small") == rejected(directory)


def test_shards_card_and_report_are_there_and_a_run_trains_on_them(curated):
    result, directory = curated
    data = json.loads((directory / "data.json").read_text())
    assert data["train"].keys() == {"web", "books"}
    tokens = {group: splits["train"][2] for group, splits in result.written.counts.items()}
    assert all(count > 500 for count in tokens.values())
    card = (directory / "data_card.md").read_text()
    assert "CC0-1.0" in card and "contamination.long_ngrams 1" in card
    page = (directory / "report/index.html").read_text()
    assert "near_duplicate" in page and "<script" not in page and "Subscribe to the weekly letter" in page
    loaded = compose_training("quickstart", ["model.vocab_size=600"], data=[directory])
    assert loaded.value.sources == ("books", "web")


def test_a_second_run_does_nothing_and_a_changed_stage_only_what_follows(crawl, curated, tmp_path):
    _, directory = curated
    runs = directory.parent
    made = {path: path.stat().st_mtime_ns for path in (directory / "stages").rglob("done.json")}
    run(crawl, runs)
    assert made == {path: path.stat().st_mtime_ns for path in (directory / "stages").rglob("done.json")}
    run(crawl, runs, "decontaminate.rules.max_long_matches=100", "decontaminate.rules.max_short_share=1")
    again = {path.relative_to(directory / "stages").parts[0] for path in made if path.stat().st_mtime_ns != made[path]}
    assert again == {"decontaminate", "write"}
    run(crawl, runs)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["engine.workers=2"], ["engine.workers=4"], ["engine.runner=ray", "engine.workers=2"]])
def test_the_bytes_do_not_depend_on_workers_and_runner(crawl, curated, tmp_path, overrides):
    expected = files_of(curated[1])
    start(crawl, tmp_path, *overrides).wait(timeout=300)
    assert files_of(tmp_path / "small") == expected


def start(crawl, runs, *overrides):
    command = [
        sys.executable,
        "-m",
        "llama3_jax",
        "curate",
        str(crawl / "run.yaml"),
        "--data",
        str(crawl),
        "--runs",
        str(runs),
        *overrides,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell ignores in the background
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: system calls cannot be watched")
def test_no_connection_is_attempted(crawl, curated, tmp_path):
    watched = tmp_path / "calls"
    small = [str(crawl / "run.yaml"), "--data", str(crawl), "--runs", str(tmp_path), "engine.workers=2"]
    watch = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(watched)]
    command = [*watch, sys.executable, "-m", "llama3_jax", "curate"]
    assert subprocess.run([*command, *small], capture_output=True, timeout=300).returncode == 0
    calls = [line for line in watched.read_text().splitlines() if "AF_INET" in line]
    assert [line for line in calls if 'inet_addr("127.' not in line and "::1" not in line] == []


@pytest.mark.slow
@pytest.mark.parametrize("stop, codes", [(signal.SIGKILL, {-9}), (signal.SIGINT, {130, -2, 0})], ids=["killed", "ctrl_c"])
def test_a_driver_stopped_at_ten_moments_ends_with_the_same_bytes(crawl, curated, tmp_path, stop, codes):
    """-2: Ctrl-C before there is anything to interrupt; 0: after all was done."""
    expected, rng = files_of(curated[1]), random.Random(0)
    began = time.monotonic()
    assert start(crawl, tmp_path / "timed", "engine.workers=2").wait(timeout=300) == 0
    length = time.monotonic() - began
    kills, in_the_middle, runs = 0, 0, 0
    while kills < 10:
        process = start(crawl, tmp_path / str(runs), "engine.workers=2")
        try:
            assert process.wait(timeout=rng.uniform(0, length)) == 0
            assert files_of(tmp_path / str(runs) / "small") == expected
            runs += 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, stop)
            assert process.wait(timeout=20) in codes
            kills += 1
            in_the_middle += any((tmp_path / str(runs)).rglob("done.json"))
    assert start(crawl, tmp_path / str(runs), "engine.workers=2").wait(timeout=300) == 0
    assert files_of(tmp_path / str(runs) / "small") == expected
    assert in_the_middle >= 3


@pytest.mark.slow
def test_a_ray_worker_killed_in_the_middle_costs_nothing(crawl, curated, tmp_path):
    expected = files_of(curated[1])
    process = start(crawl, tmp_path, "engine.runner=ray", "engine.workers=3")
    killed, deadline = 0, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(1.5)
        actors = subprocess.run(["pgrep", "-f", "ray::.*UDFActor|ray::.*Actor"], capture_output=True, text=True).stdout.split()
        if actors and killed < 3:
            try:
                os.kill(int(actors[-1]), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    assert process.wait(timeout=10) == 0
    assert killed
    assert files_of(tmp_path / "small") == expected

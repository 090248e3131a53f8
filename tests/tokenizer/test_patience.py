"""A read that fails for a moment is tried again, one that does not come back is named, and neither is silent."""

import json
import os
import threading
import time

import numpy as np
import pytest

from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "web-00007.arrayrecord"
    with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=1000) as writer:
        writer.write(np.arange(10))
    return path


def test_a_shard_that_fails_for_a_moment_is_read_in_the_end(path, tmp_path):
    lines = []

    def report(line):
        lines.append(line)
        if len(lines) == 2:  # the disk is back
            os.rename(tmp_path / "away", path)

    shard = TokenShard(path, patience=Patience(report, first_pause_s=0.01))
    os.rename(path, tmp_path / "away")
    assert shard[0].tolist() == list(range(10))
    assert len(lines) == 2 and all("web-00007.arrayrecord" in line and "No such file" in line for line in lines)
    assert "attempt 1 of 5" in lines[0] and "attempt 2 of 5" in lines[1]


@pytest.mark.parametrize("opened_before", [False, True])
def test_a_shard_that_goes_on_failing_is_named_with_the_cause(path, opened_before):
    lines = []
    shard = TokenShard(path, patience=Patience(lines.append, attempts=3, first_pause_s=0.01))
    if opened_before:
        shard.verify()
    path.unlink()
    path.mkdir()  # what a read of it says is a real error of the system
    with pytest.raises(OSError, match="web-00007.arrayrecord cannot be read, tried 3 times: .*directory"):
        shard[0]
    assert len(lines) == 2


def test_what_is_not_permitted_is_not_tried_again():
    def refuse():
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        Patience(pytest.fail).read("shard", refuse)


def test_pauses_grow():
    times = []

    def fail():
        times.append(time.monotonic())
        raise OSError("no")

    with pytest.raises(OSError):
        Patience(lambda line: None, attempts=4, first_pause_s=0.05).read("shard", fail)
    pauses = np.diff(times)
    assert (pauses >= [0.05, 0.1, 0.2]).all() and pauses.sum() < 2


def test_a_read_that_does_not_come_back_is_named_until_it_does(path):
    """The header is a FIFO here: opening the shard waits, as on a disk that has gone, until somebody writes it."""
    lines = []
    header = path.with_suffix(".json").read_bytes()
    path.with_suffix(".json").unlink()
    os.mkfifo(path.with_suffix(".json"))
    patience = Patience(lines.append, stall_s=0.1)
    opened = []
    thread = threading.Thread(target=lambda: opened.append(TokenShard(path, patience=patience)))
    thread.start()
    time.sleep(1.0)
    assert opened == [] and 2 <= len(lines) <= 4  # after 0.1, 0.2, 0.4, 0.8 s, as far as this machine is in time
    assert all("waiting for" in line and "web-00007.arrayrecord" in line for line in lines)
    path.with_suffix(".json").write_bytes(header)
    thread.join(10)
    assert json.loads(header)["sha256"] == opened[0].header.sha256
    told = len(lines)
    time.sleep(0.3)
    assert len(lines) == told


def test_waiting_and_watching_leave_nothing_behind():
    before = set(threading.enumerate())
    patience = Patience(pytest.fail, stall_s=0.04)
    assert [patience.read(str(number), lambda number=number: number) for number in range(1000)] == list(range(1000))
    (watch,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "stall report")
    del patience
    watch.join(10)
    assert not watch.is_alive()

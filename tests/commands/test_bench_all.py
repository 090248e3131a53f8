"""`llama3 bench all` runs commands that measure one after another within a time, and keeps what they say."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from llama3_jax.commands.bench_all import AllBench
from llama3_jax.commands.main import main
from llama3_jax.config.load import load

QUICK = "bench decode rounds=1 'shapes=[{requests: 1, positions: 64, num_heads: 2, num_kv_heads: 1, head_dim: 16, page: 16}]'"
WRONG = "bench decode rounds=0"


def bench(tmp_path, *parts, seconds=300):
    file = tmp_path / "all.yaml"
    listed = "".join(f'  - {{command: "{command}", seconds: {limit}}}\n' for command, limit in parts)
    file.write_text(f"parts:\n{listed}seconds: {seconds}\nreport: {tmp_path}/reports/report.md\n")
    return ["bench", "all", str(file)], tmp_path / "reports" / "report.md"


def test_the_report_says_what_every_part_said_and_how_it_ended(tmp_path, capsys):
    command, report = bench(tmp_path, (QUICK, 200), (WRONG, 200), ("doctor", 1), (QUICK, 200))
    assert main(command) == 1
    told = capsys.readouterr()
    assert "error: 2 of 4 parts failed, were ended or left out" in told.err
    text = report.read_text()
    assert text == told.out, "what is printed is what is kept"
    assert re.match(r"# \d{4}-\d\d-\d\d \d\d:\d\d UTC\nllama3_jax [\d.]+.*, Python 3[\d.]+\n", text)
    assert re.search(r"^jax [\d.]+, jaxlib [\d.]+, flax [\d.]+", text, re.M)
    assert len(re.findall(r"^llama3_jax, from pages +[\d,]+ ", text, re.M)) == 2, "a part that fails or hangs stops no other"
    assert "rounds=0; use 1 or more" in text
    ends = re.findall(r"^- `llama3 (.*)`: (.*)$", text, re.M)
    assert [end for end, _ in ends] == [QUICK, WRONG, "doctor", QUICK]
    said = [re.sub(r"\d+ s", "T", end) for _, end in ends]
    assert said == ["done in T", "FAILED with exit status 2 after T", "ENDED after its T", "done in T"]


def test_what_the_time_has_no_room_for_is_left_out(tmp_path, capsys):
    command, report = bench(tmp_path, ("doctor", 200), (QUICK, 200), seconds=1)
    report.parent.mkdir()
    report.write_text("# of another day\n")
    assert main(command) == 1
    assert report.read_text().startswith("# of another day\n# 20"), "added to what is there"
    assert re.findall(r"^- .*`: (.*)$", report.read_text(), re.M) == ["ENDED after its 1 s", "LEFT OUT, the time was up"]
    assert "error: 2 of 2 parts" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_part_and_keeps_what_was_said(number, tmp_path):
    command, report = bench(tmp_path, ("bench attention", 200))
    with subprocess.Popen([sys.executable, "-m", "llama3_jax", *command], stdout=subprocess.PIPE, text=True) as parent:
        while not parent.stdout.readline().startswith("visited:"):
            pass
        children = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True).stdout.split()
        parent.send_signal(number)
        assert parent.wait(30) == 130
    assert len(children) == 1
    time.sleep(0.1)
    assert not os.path.exists(f"/proc/{children[0]}"), "nothing goes on measuring"
    assert "matmul peak" in report.read_text()


@pytest.mark.parametrize(
    "override, why",
    [
        ("parts=[]", "parts needs an entry"),
        ("seconds=0", "seconds=0; use 1 or more"),
        ("parts.0.seconds=0", "seconds=0 of 'doctor'"),
        ("parts.0.command=train quickstart", "'train quickstart' does not measure; use one of llama3 bench, llama3 doctor"),
        ("parts.0.command=bench all", "command='bench all' does not measure"),
    ],
)
def test_bad_input(override, why, capsys):
    assert main(["bench", "all", override]) == 2
    assert why in capsys.readouterr().err


def test_the_published_one_fits_eight_minutes_and_its_commands_are_sound(capsys):
    run = load(AllBench, "bench_h100", []).value
    assert run.seconds == 480 == sum(part.seconds for part in run.parts)
    for part in run.parts[1:]:
        assert main([*part.command.split(), "--print-config"]) == 0
    assert capsys.readouterr().out

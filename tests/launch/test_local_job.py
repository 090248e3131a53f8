"""launch/local_job.sh: starts as many processes as it is told, passes signals on, and fails where one of them fails.

The environment it finds is one in which `llama3` is a few lines of shell that write down how they were started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "local_job.sh"
LLAMA3 = """#!/bin/bash
told="$* gpus=${CUDA_VISIBLE_DEVICES:-}"
id=${told##*--process-id }
id=${id%% *}
trap 'echo TERM >>"$PLACE/signals.$id"; exit 75' TERM
echo "$told" >"$PLACE/arguments.$id"
[ "$id" != "${FAILS:-}" ] || exit 3
for ((i = 0; i < ${TENTHS:-0}; i++)); do sleep 0.1; done
"""


@pytest.fixture
def environment(tmp_path):
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    python = f'#!/bin/bash\n[[ " $* " != *" pip "* ]] || exit 0\nexec {sys.executable} "$@"\n'
    nvidia_smi = '#!/bin/bash\n[ -n "${GPUS:-}" ] || exit 9\nseq 0 $((GPUS - 1))\n'
    for name, text in {"python": python, "llama3": LLAMA3, "nvidia-smi": nvidia_smi}.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    path = f"{binaries}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "LLAMA3_VENV": str(tmp_path / "venv"), "PLACE": str(tmp_path)}


def start(environment, *arguments, **more) -> subprocess.Popen:
    return subprocess.Popen(["bash", str(SCRIPT), *arguments], env=environment | more, stderr=subprocess.PIPE, text=True)


def started(tmp_path) -> list[str]:
    return [path.read_text().strip() for path in sorted(tmp_path.glob("arguments.*"))]


def test_every_process_gets_its_place(environment, tmp_path):
    assert start(environment, "3", "run.yaml", "seed=1").wait(timeout=60) == 0
    told = started(tmp_path)
    places = {line.partition(" --process-id ")[0] for line in told}
    assert len(told) == 3 and len(places) == 1, "all have the same coordinator"
    assert places.pop().startswith("train run.yaml seed=1 --coordinator localhost:")
    assert [line.split(" --process-id ")[1] for line in told] == ["0 gpus=", "1 gpus=", "2 gpus="]


def test_gpus_are_shared(environment, tmp_path):
    assert start(environment, "2", "run.yaml", GPUS="4").wait(timeout=60) == 0
    assert [line.split()[-1] for line in started(tmp_path)] == ["gpus=0,1", "gpus=2,3"]


def test_gpus_that_cannot_be_shared_are_said(environment, tmp_path):
    job = start(environment, "3", "run.yaml", GPUS="4")
    assert job.wait(timeout=60) == 2 and "4 GPUs cannot be shared among 3 processes" in job.stderr.read()
    assert not started(tmp_path)


@pytest.mark.parametrize("fails", ["0", "1"])
def test_it_fails_where_one_process_fails(environment, fails):
    assert start(environment, "2", "run.yaml", FAILS=fails).wait(timeout=60) == 3


def test_a_signal_reaches_every_process_once(environment, tmp_path):
    job = start(environment, "2", "run.yaml", TENTHS="600")
    deadline = time.monotonic() + 60
    while len(started(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 75
    assert [path.read_text() for path in sorted(tmp_path.glob("signals.*"))] == ["TERM\n"] * 2


@pytest.mark.parametrize("arguments", [[], ["0", "run.yaml"], ["two", "run.yaml"], ["2"]])
def test_a_wrong_command_line_is_said(environment, arguments):
    job = start(environment, *arguments)
    assert job.wait(timeout=60) == 2 and "usage:" in job.stderr.read()

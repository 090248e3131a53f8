"""The launch scripts on machines where they cannot work: a plain sentence and a code of its own, nothing installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
TOOLS = ("bash", "dirname", "cat", "grep", "sort", "awk", "df", "ls", "mkdir", "touch", "rm", "tail", "head", "cksum", "tee")


@pytest.fixture
def machine(tmp_path):
    """`machine(version)`: the environment of a machine whose only Python says that version."""

    def make(version: str | None) -> dict[str, str]:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in TOOLS:
            found = next(path for path in (Path("/bin"), Path("/usr/bin")) if (path / name).exists())
            (tools / name).symlink_to(found / name)
        if version:
            (tools / "python3").write_text(f"#!/bin/bash\necho {version}\n")
            (tools / "python3").chmod(0o755)
        return {"PATH": str(tools), "HOME": str(tmp_path), "LLAMA3_VENV": str(tmp_path / "venv")}

    return make


def run(script: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["/bin/bash", str(LAUNCH / script)], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
@pytest.mark.parametrize("version", ["3.9.2", None])
def test_an_old_or_missing_python_is_said(script, version, machine, tmp_path):
    done = run(script, machine(version), tmp_path)
    assert done.returncode == 3
    assert "3.11" in done.stderr and "LLAMA3_PYTHON" in done.stderr
    assert version is None or version in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_full_disk_is_said_before_anything_is_written(machine, tmp_path):
    environment = machine("3.12.1")
    df = tmp_path / "bin" / "df"
    df.unlink()
    df.write_text("#!/bin/bash\necho 'Filesystem 1024-blocks Used Available'\necho 'disk 100 60 40'\n")
    df.chmod(0o755)
    done = run("quickstart.sh", environment, tmp_path)
    assert done.returncode == 4 and "3 GB" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_help_needs_no_python(script, machine, tmp_path):
    done = subprocess.run(
        ["/bin/bash", str(LAUNCH / script), "--help"], env=machine(None), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "usage" in done.stdout

"""What ships is finished: nothing left to fill in, every picture there, every command of the README known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama3_jax.commands.main import main

ROOT = Path(__file__).parents[1]
SHIPPED = [ROOT / "README.md", *ROOT.glob("configs/*.yaml"), *ROOT.glob("launch/*.sh"), *ROOT.rglob("llama3_jax/**/*.py")]


@pytest.mark.parametrize("word", ["PLACEHOLDER", "TODO", "FIXME", "NotImplementedError"])
def test_nothing_is_left_to_fill_in(word):
    assert [path.name for path in SHIPPED if word in path.read_text()] == []


def test_the_pictures_and_files_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:tests|launch|configs|\.ci)/[\w./]+)`", text)
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_train_commands_of_the_readme_are_understood(capsys):
    runs = r"^ {4}.*?(?:llama3 train|local_job\.sh \d+) (.+?)(?: {2,}#.*)?$"
    lines = re.findall(runs, (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 4 and any("name=job" in line for line in lines)
    for line in lines:
        assert main(["train", *line.replace("--print-config", "").split(), "--print-config"]) == 0, line


def test_data_files_of_the_package_are_installed_with_it():
    setup, package = (ROOT / "setup.py").read_text(), ROOT / "llama3_jax"
    data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert sorted(path.name for path in data) == ["block_sizes.json", "chat_template.jinja"]
    for path in data:
        room = ".".join(path.parent.relative_to(ROOT).parts)
        assert f'"{room}": ["*{path.suffix}"]' in setup, path

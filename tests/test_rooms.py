"""The order of rooms: a room imports only rooms before it, nothing imports what lies outside the package, and the parts
that a bare accelerator box or a shell prompt needs stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llama3_jax"
ROOMS = (
    "config", "tokenizer", "curation", "batches", "sharding", "kernels", "model", "checkpoint", "generate", "evaluate",
    "train", "bench", "commands",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names that a file imports, at the top or inside a function; relative ones made absolute."""
    here = ("llama3_jax", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_every_folder_is_a_room():
    assert {path.parent.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "llama3_jax" and len(parts) > 1 and parts[1] not in ("__version__",):
                assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("outside", ["tests", "configs", "launch", "conftest"])
def test_nothing_imports_what_is_outside(outside):
    for path in FILES:
        assert not [name for name in imports(path) if name.split(".")[0] == outside], path


@pytest.mark.parametrize(
    "module, absent",
    [
        ("llama3_jax.model.transformer", ("grain", "orbax", "tiktoken")),
        ("llama3_jax.kernels.attention.flash_attention", ("grain", "orbax", "tiktoken")),
        ("llama3_jax.train.step", ("grain", "orbax", "tiktoken")),
        ("llama3_jax.commands.run", ("jax",)),
        ("llama3_jax.commands.train", ("jax",)),
    ],
)
def test_import_weight(module, absent):
    code = f"import sys, {module}; print(*(name for name in {absent} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []

"""Which code a stage is made of, so that what another version left behind is done again."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

_PACKAGE = "llama3_jax"
_ROOM = f"{_PACKAGE}.curation"
_SCHEDULING = (f"{_ROOM}.engine", f"{_ROOM}.code_version")
"""What decides where work runs, never what comes out."""
_DISTRIBUTIONS = {
    "daft": "daft", "zstandard": "zstandard", "brotli": "brotli", "resiliparse": "resiliparse",
    "fasttext": "fasttext-numpy2-wheel",
    "trafilatura": "trafilatura", "numpy": "numpy", "scipy": "scipy", "pyarrow": "pyarrow", "regex": "regex",
}  # fmt: skip


def code_version(work: Callable) -> str:
    """A hash of the modules of curation behind a function or class, its own and what that imports, and of the versions of
    the libraries that these call."""
    return _version(work.__module__)


@functools.cache
def _version(module: str) -> str:
    digest, seen, waiting = hashlib.sha256(), set(), [module]
    libraries = set()
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or name in _SCHEDULING or path is None:
            continue
        seen.add(name)
        for imported in _imports(path, name):
            if imported.split(".")[0] == _PACKAGE:
                waiting.append(imported)
            elif imported.split(".")[0] in _DISTRIBUTIONS:
                libraries.add(imported.split(".")[0])
    for name in sorted(seen):
        digest.update(f"{name}\0".encode() + _source(name).read_bytes())
    for library in sorted(libraries):
        digest.update(f"{library}=={_installed(library)}\0".encode())
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    """Of a module of this room; None for anything else, a name in a module too."""
    if not f"{module}.".startswith(f"{_ROOM}."):
        return None
    place = Path(__file__).parent.joinpath(*module.split(".")[2:])
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def _imports(path: Path, module: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), module) if node.level else node.module
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _installed(library: str) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS[library])
    except importlib.metadata.PackageNotFoundError:
        return "none"

"""Which code a stage is made of, so that what another version left behind is done again."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

_PACKAGE = "llama3_jax"
_SCHEDULING = (f"{_PACKAGE}.curation.engine", f"{_PACKAGE}.curation.code_version")
"""What decides where work runs, never what comes out."""
_DISTRIBUTIONS = {
    "daft": "daft", "zstandard": "zstandard", "isal": "isal", "brotli": "brotli", "resiliparse": "resiliparse",
    "fasttext": "fasttext-numpy2-wheel",
    "trafilatura": "trafilatura", "numpy": "numpy", "scipy": "scipy", "pyarrow": "pyarrow", "regex": "regex",
    "tiktoken": "tiktoken", "rustbpe": "rustbpe", "array_record": "array_record",
}  # fmt: skip


def code_version(work: Callable) -> str:
    """A hash of our modules behind a function, its own and what that imports, and of the versions of the libraries that these
    call; of a partial also of the functions it is given."""
    if not isinstance(work, functools.partial):
        return _version(work.__module__)
    given = [value for value in (*work.args, *work.keywords.values()) if inspect.isroutine(value)]
    return hashlib.sha256("".join(map(code_version, [work.func, *given])).encode()).hexdigest()


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
    """Of a module of ours; None for anything else, a name in a module too."""
    if not module.startswith(f"{_PACKAGE}."):
        return None
    place = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
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

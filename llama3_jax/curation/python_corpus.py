"""A corpus every machine has: the prose and the code of the Python that runs, no download needed."""

import ast
import logging
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from llama3_jax.curation.document import Document

_log = logging.getLogger(__name__)

_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "ensurepip", "test", "tests"} | {
    "idlelib",
    "lib2to3",
    "turtledemo",
    "pydoc_data",  # its topics are documents of their own
}


def python_docs() -> Iterator[Document]:
    """Prose: the language reference that `help()` shows (ids `topic:NAME`), then each module's docstrings.

    A module's document has the module's dotted name as id, as in `python_code`, and is its name followed by
    each qualified name with its docstring. Sorted by id within the two parts.

    Raises: FileNotFoundError if this Python came without the source of its library.
    """
    yield from _topics()
    for name, source in _modules():
        sections = list(_docstrings(ast.parse(source), name))
        if sections:
            yield Document(name, "\n\n\n".join(f"{qualified}\n\n{text}" for qualified, text in sections) + "\n")


def python_code() -> Iterator[Document]:
    """The source of each standard-library module, its dotted name as id, sorted by name; no tests.

    Raises: FileNotFoundError if this Python came without the source of its library.
    """
    for name, source in _modules():
        if source.strip():
            yield Document(name, source)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:
        _log.warning("this Python has no pydoc_data.topics: python_docs goes without the language reference")
        return
    for name in sorted(topics):
        yield Document(f"topic:{name}", topics[name])


def _modules() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    files = {}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        if _NOT_LIBRARY.isdisjoint(parts) and all(map(str.isidentifier, parts)):
            files[".".join(parts).removesuffix(".__init__")] = path
    if not files:
        raise FileNotFoundError(
            f"no .py files below {library}: this Python has no library source. Use one from python.org, "
            "conda, uv or your system's full python3 package, or give text of your own (kind: files)"
        )
    for name in sorted(files):
        with tokenize.open(files[name]) as file:
            yield name, file.read()


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and text.strip():
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")

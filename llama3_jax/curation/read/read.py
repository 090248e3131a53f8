"""Any input file to raw documents, by the end of its name."""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec

from llama3_jax.curation.read.plain import read_code, read_html, read_subtitles, read_text
from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.records import read_jsonl, read_parquet
from llama3_jax.curation.read.warc import read_warc
from llama3_jax.tokenizer.object_store import is_url, store_errors

__all__ = ["InputFile", "Limits", "Raw", "Skipped", "find_inputs", "read"]

_log = logging.getLogger(__name__)

Reader = Callable[[BinaryIO, str, Limits], Iterator[Raw | Skipped]]

_CODE = (
    "py pyi js mjs jsx ts tsx java c h cc cpp cxx hpp hh cs go rs rb php swift kt kts scala sh bash zsh ps1 pl pm lua r jl m mm "
    "hs ml mli clj ex exs erl el lisp scm f f90 f95 sql vue svelte dart zig nim cu cuh proto cmake gradle groovy v sv vhd asm s"
).split()
_TEXT = "txt md markdown rst tex bib adoc org text".split()
_VENDORED = {"node_modules", "vendor", "third_party", "__pycache__", "site-packages", "dist", "build"}

_READERS: Mapping[str, Reader] = {
    **{f".warc{end}": read_warc for end in ("", ".gz", ".zst")},
    **{f".wet{end}": read_warc for end in (".gz", ".zst")},
    **{f".jsonl{end}": read_jsonl for end in ("", ".gz", ".zst")},
    **{f".{kind}{end}": read_html for kind in ("html", "htm", "xhtml") for end in ("", ".gz", ".zst")},
    **{f".{kind}{end}": read_text for kind in _TEXT for end in ("", ".gz", ".zst")},
    ".parquet": read_parquet,
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    **{f".{kind}": read_code for kind in _CODE},
}


class InputFile(NamedTuple):
    """A file to read."""

    path: str
    """Or URL."""
    name: str
    """From the directory that was given, so that ids do not change with where the data lie."""
    size: int
    """Bytes, as it is stored."""
    version: str
    """Another one after the file was written anew."""


def read(file: InputFile, limits: Limits) -> Iterator[Raw | Skipped]:
    """The documents of a file, one at a time; whatever is wrong in it is a `Skipped`.

    Raises: OSError if it cannot be opened.
    """
    with store_errors(file.path), fsspec.open(file.path, "rb") as opened:
        yield from _READERS[_suffix(file.name)](opened, file.name, limits)


def find_inputs(paths: Sequence[str]) -> list[InputFile]:
    """Every file that can be read, in the order of its name; directories are walked, `*` and `**` match, URLs of object
    stores are listed. In a directory, files of other kinds are left out and counted in the log.

    Raises: FileNotFoundError for what is not there; ValueError for a file of an unknown kind or a place without any.
    """
    if not paths:
        raise ValueError("paths is empty: name at least one file or directory")
    found = {file.path: file for path in paths for file in _found(str(path))}
    return sorted(found.values(), key=lambda file: (file.name, file.path))


def _found(path: str) -> list[InputFile]:
    given = path if is_url(path) else os.path.expanduser(path)
    with store_errors(given):
        store, place = fsspec.core.url_to_fs(given)
        matches = [place] * store.exists(place)
        if any(sign in place for sign in "*?["):
            matched = sorted(store.glob(place))
            matches = [match for match in matched if _suffix(match) is not None or store.isdir(match)]
            if len(matches) < len(matched):
                _log.warning("%s: left out %d files of other kinds", path, len(matched) - len(matches))
        if not matches:
            raise FileNotFoundError(f"no file or directory {path}")
        files = [file for match in matches for file in _below(store, match)]
    if not files:
        raise ValueError(f"{path} holds no readable file; these are read: {', '.join(_READERS)}")
    return files


def _below(store: fsspec.AbstractFileSystem, place: str) -> list[InputFile]:
    described = store.info(place)
    if described["type"] != "directory":
        if _suffix(place) is None:
            raise ValueError(f"{place}: unknown kind of file; these are read: {', '.join(_READERS)}")
        return [_input(store, described, os.path.basename(place))]
    files, others = [], collections.Counter()
    root = place.rstrip("/")
    for name, about in sorted(store.find(root, detail=True).items()):
        inside = name[len(root) :].lstrip("/")
        folders = inside.split("/")[:-1]
        if any(part.startswith(".") or part in _VENDORED for part in folders):
            others["hidden or vendored"] += 1
        elif _suffix(name) is None:
            others[Path(name).suffix or "no suffix"] += 1
        else:
            files.append(_input(store, about, inside))
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
        _log.warning("%s: left out %d files of other kinds (%s)", place, sum(others.values()), kinds)
    return files


def _input(store: fsspec.AbstractFileSystem, about: Mapping, name: str) -> InputFile:
    version = next((str(about[key]) for key in ("ETag", "etag", "md5Hash", "generation", "mtime") if about.get(key)), "")
    return InputFile(store.unstrip_protocol(about["name"]), name, int(about.get("size") or 0), version)


def _suffix(path: str) -> str | None:
    """The longest known end of a name."""
    name = path.rsplit("/", 1)[-1].lower()
    ends = (name[place:] for place, sign in enumerate(name) if sign == ".")
    return next((end for end in ends if end in _READERS), None)

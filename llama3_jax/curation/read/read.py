"""Any input file to raw documents, by the end of its name."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import fsspec

from llama3_jax.curation.read.plain import read_code, read_html, read_subtitles, read_text
from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.records import read_jsonl, read_parquet
from llama3_jax.curation.read.warc import read_warc
from llama3_jax.tokenizer.object_store import is_url, store_errors

__all__ = ["InputFile", "Limits", "Raw", "Skipped", "find_inputs", "in_parts", "read"]

_log = logging.getLogger(__name__)

Reader = Callable[..., Iterator[Raw | Skipped]]
"""Of a file, its name and limits; of archives also the part."""

_CODE = (
    "py pyi js mjs jsx ts tsx java c h cc cpp cxx hpp hh cs go rs rb php swift kt kts scala sh bash zsh ps1 pl pm lua r jl m mm "
    "hs ml mli clj ex exs erl el lisp scm f f90 f95 sql vue svelte dart zig nim cu cuh proto cmake gradle groovy v sv vhd asm s"
).split()
_TEXT = "txt md markdown rst tex bib adoc org text".split()
_VENDORED = {"node_modules", "vendor", "third_party", "__pycache__", "site-packages", "dist", "build"}

_WILD = re.compile(r"[*?\[]")

_READERS: Mapping[str, Reader] = {
    **{f".warc{end}": read_warc for end in ("", ".gz", ".zst")},
    **{f".wet{end}": read_warc for end in ("", ".gz", ".zst")},
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
    part: tuple[int, int] | None = None
    """Of its records, those that begin within these bytes, from the first up to the second; None: all."""


def read(file: InputFile, limits: Limits) -> Iterator[Raw | Skipped]:
    """The documents of a file, one at a time; whatever is wrong in what it holds is a `Skipped`.

    Raises: OSError if it cannot be opened.
    """
    with store_errors(file.path), fsspec.open(file.path, "rb") as opened:
        yield from _READERS[_suffix(file.name)](opened, file.name, limits, *(file.part or ()))


def in_parts(file: InputFile, size: int) -> Iterator[InputFile]:
    """A file as parts of about `size` bytes that are read apart and, one after another, are the same as all of it; the file
    itself where it is no larger, or none of those that can be entered in the middle: archives of a gzip member a record."""
    count = -(-file.size // size) if _suffix(file.name) in (".warc.gz", ".wet.gz") else 1
    edges = [file.size * number // count for number in range(count + 1)] if count > 1 else []
    yield from (file._replace(part=part) for part in itertools.pairwise(edges)) if edges else [file]


def find_inputs(paths: Sequence[str]) -> list[InputFile]:
    """Every file that can be read, in the order of its name; directories are walked, `*` and `**` match, URLs of object
    stores are listed. In a directory, files of other kinds and vendored code are left out and counted in the log.

    A name is the path below what was given (of a pattern: below the directory before its first `*`), so that documents keep
    their ids when the data move; where two files would share one, as many parents are added to both as tell them apart.

    Raises: FileNotFoundError for what is not there; ValueError for a file of an unknown kind or a place without any.
    """
    if not paths:
        raise ValueError("paths is empty: name at least one file or directory")
    found: dict[str, InputFile] = {}
    for path in paths:
        for file in _found(str(path)):
            found.setdefault(file.path, file)
    return sorted(_told_apart(list(found.values())), key=lambda file: (file.name, file.path))


def _told_apart(files: list[InputFile]) -> list[InputFile]:
    by_name = collections.defaultdict(list)
    for file in files:
        by_name[file.name].append(file)
    for name, same in by_name.items():
        places = [file.path.split("/") for file in same]
        depth = name.count("/") + 1
        while len(same) > 1 and len({tuple(place[-depth:]) for place in places}) < len(same):
            depth += 1
        if len(same) > 1:
            by_name[name] = [file._replace(name="/".join(file.path.split("/")[-depth:])) for file in same]
    return [file for same in by_name.values() for file in same]


def _found(path: str) -> list[InputFile]:
    given = path if is_url(path) else os.path.expanduser(path)
    with store_errors(given):
        store, place = fsspec.core.url_to_fs(given)
        if store.exists(place):
            files = _below(store, place)
        elif (wild := _WILD.search(place)) is not None:
            root = place[: wild.start()].rpartition("/")[0]
            matches = {name: about for name, about in store.glob(place, detail=True).items()}
            for directory in [name for name, about in matches.items() if about["type"] == "directory"]:
                matches |= store.find(directory, detail=True)
            if not matches:
                raise FileNotFoundError(f"no file or directory matches {path}")
            files = _readable(store, root, {name: about for name, about in matches.items() if about["type"] != "directory"})
        else:
            raise FileNotFoundError(f"no file or directory {path}")
    if not files:
        raise ValueError(f"{path} holds no readable file; these are read: {', '.join(_READERS)}")
    return files


def _below(store: fsspec.AbstractFileSystem, place: str) -> list[InputFile]:
    described = store.info(place)
    if described["type"] == "directory":
        return _readable(store, place.rstrip("/"), store.find(place, detail=True))
    if _suffix(place) is None:
        raise ValueError(f"{place}: unknown kind of file; these are read: {', '.join(_READERS)}")
    return [_input(store, described, os.path.basename(place))]


def _readable(store: fsspec.AbstractFileSystem, root: str, found: Mapping[str, Mapping]) -> list[InputFile]:
    """Of what was found below a root."""
    files, others = [], collections.Counter()
    for name, about in sorted(found.items()):
        inside = name.removeprefix(root).lstrip("/")
        suffix, folders = _suffix(name), inside.split("/")[:-1]
        if any(part.startswith(".") for part in folders):
            others["hidden"] += 1
        elif suffix is None:
            others[Path(name).suffix or "no suffix"] += 1
        elif _READERS[suffix] is read_code and not _VENDORED.isdisjoint(folders):
            others["vendored"] += 1
        else:
            files.append(_input(store, about, inside))
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
        _log.warning("%s: left out %d files of other kinds (%s)", root, sum(others.values()), kinds)
    return files


def _input(store: fsspec.AbstractFileSystem, about: Mapping, name: str) -> InputFile:
    version = next((str(about[key]) for key in ("ETag", "etag", "md5Hash", "generation", "mtime") if about.get(key)), "")
    return InputFile(store.unstrip_protocol(about["name"]), name, int(about.get("size") or 0), version)


def _suffix(path: str) -> str | None:
    """The longest known end of a name."""
    name = path.rsplit("/", 1)[-1].lower()
    ends = (name[place:] for place, sign in enumerate(name) if sign == ".")
    return next((end for end in ends if end in _READERS), None)

"""Files on object stores, through the library that Grain and Orbax take for paths (etils.epath, which asks fsspec).

The URLs are those of epath: gs://, s3://, az:// and hf://, each by a package of its own that is installed where it is wanted.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from etils import epath

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def is_url(path: str | os.PathLike) -> bool:
    return os.fspath(path).partition("://")[0] in _PACKAGES


def located(path: str | os.PathLike) -> Path | epath.Path:
    """A path that can be read: an epath one for a URL, pathlib's for a file here."""
    return epath.Path(path) if is_url(path) else Path(path).expanduser()


def find(pattern: str) -> list[str]:
    """The paths or URLs that match; `*` stands for anything but `/`. Raises: OSError, ValueError as `store_errors`."""
    if not is_url(pattern):
        return glob.glob(pattern)
    scheme, _, place = pattern.partition("://")
    bucket, _, inside = place.partition("/")
    if not inside:
        raise ValueError(f"{pattern} names no file; give {scheme}://BUCKET/PATH")
    with store_errors(pattern):
        return [str(path) for path in epath.Path(f"{scheme}://{bucket}").glob(inside)]


def sizes_below(url: epath.Path) -> dict[str, int]:
    """Bytes of every object below a URL, by its path from there; as they are now, whoever wrote them.

    Raises: OSError, ValueError as `store_errors`.
    """
    with store_errors(url):
        store, root = fsspec.core.url_to_fs(os.fspath(url))
        store.invalidate_cache()  # it remembers listings, and does not hear of what other clients write
        found = store.find(root, detail=True)
        store.invalidate_cache()
    return {name[len(root) :].lstrip("/"): described["size"] for name, described in found.items()}


def put(url: epath.Path, data: bytes = b"") -> None:
    """Writes an object, at once and whole. Raises: OSError, ValueError as `store_errors`."""
    with store_errors(url):
        store, path = fsspec.core.url_to_fs(os.fspath(url))
        store.pipe_file(path, data)


def copy(source: Path, target: Path | epath.Path) -> None:
    """Copies a file of this machine, to a directory that is made or to an object store."""
    if is_url(target):
        put(target, source.read_bytes())
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def remove(url: epath.Path, names: Iterable[str]) -> None:
    """Removes objects below a URL. Raises: OSError, ValueError as `store_errors`."""
    with store_errors(url):
        store, root = fsspec.core.url_to_fs(os.fspath(url))
        if paths := [f"{root}/{name}" for name in names]:
            store.rm(paths)


@contextmanager
def store_errors(url: str | os.PathLike) -> Iterator[None]:
    """Turns what the client of a store raises of its own (connections, time-outs, throttling) into OSError.

    Raises: ValueError, with the line that installs it, for a package that is missing.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except ImportError as error:
        package = _PACKAGES[os.fspath(url).partition("://")[0]]
        raise ValueError(f"{url} is read with the package {package} ({error}); install it: pip install {package}") from error
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error

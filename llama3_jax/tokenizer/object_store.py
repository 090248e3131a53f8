"""Files on object stores, through the library that Grain and Orbax take for paths (etils.epath, which asks fsspec).

The URLs are those of epath: gs://, s3://, az:// and hf://, each by a package of its own that is installed where it is wanted.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def is_url(path: str | os.PathLike) -> bool:
    return os.fspath(path).partition("://")[0] in _PACKAGES


def located(path: str | os.PathLike) -> Path | epath.Path:
    """A path that can be read: an epath one for a URL, pathlib's for a file here."""
    return epath.Path(path) if is_url(path) else Path(path)


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

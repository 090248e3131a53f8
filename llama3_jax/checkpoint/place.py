"""Where the checkpoints of a run lie: a directory or an object store."""

from __future__ import annotations

import os

from llama3_jax.checkpoint.bucket import Bucket
from llama3_jax.checkpoint.folder import Folder
from llama3_jax.tokenizer.object_store import is_url, located


def place_at(directory: str | os.PathLike) -> Folder | Bucket:
    """Args: directory: a path, or gs://BUCKET/PATH. Raises: ValueError for another store."""
    return Bucket(os.fspath(directory)) if is_url(directory) else Folder(located(directory))

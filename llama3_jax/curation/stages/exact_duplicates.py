"""Documents that are there twice: by address, of which the newest version stays, and by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llama3_jax.curation.deduplicate.exact import content_keys
from llama3_jax.curation.deduplicate.urls import url_keys
from llama3_jax.curation.partition import Context, Outcome, Partition
from llama3_jax.curation.stages.same_key import deduplicate

URLS, CONTENTS = "urls", "exact_duplicates"


@dataclass(frozen=True, kw_only=True)
class SameUrl:
    """URL deduplication over all sources (section 3.1.1): the newest version of each page stays."""

    sources: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SameContent:
    """Documents of one language whose texts agree to the letter."""

    sources: tuple[str, ...] | None = None


def deduplicate_urls(context: Context, partitions: Sequence[Partition], settings: SameUrl) -> Outcome:
    return deduplicate(context, URLS, partitions, _keys_of_urls, ("url",), "older_version", settings, settings.sources)


def deduplicate_contents(context: Context, partitions: Sequence[Partition], settings: SameContent) -> Outcome:
    columns = ("text", "language")
    return deduplicate(context, CONTENTS, partitions, _keys_of_contents, columns, "exact_duplicate", settings, settings.sources)


def _keys_of_urls(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    urls = table["url"].to_pylist()
    keys = url_keys(urls)
    return keys[:, 0], keys[:, 1], np.array([bool(url) for url in urls], bool)


def _keys_of_contents(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys = content_keys(table["text"].to_pylist(), table["language"].to_pylist())
    return keys[:, 0], keys[:, 1], np.ones(len(keys), bool)

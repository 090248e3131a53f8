"""Lines that occur too often within a bucket of documents (section 3.1.1: more than 6 times in each bucket of 30M)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llama3_jax.curation.deduplicate.lines import frequent, line_hashes, without_lines
from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.shuffle import num_buckets, read_bucket, write_buckets
from llama3_jax.curation.step import Facts, Task, digest
from llama3_jax.curation.text_buffer import mix

STAGE = "lines"
LISTED = "removed_lines.parquet"
_BYTES_OF_LINE = 32
"""At least, on average; for the number of shuffle buckets only."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Line-level deduplication within each language."""

    at_most: int = 6
    """Times that a line may occur in a bucket; more, and every occurrence is removed."""
    bucket_documents: int = 30_000_000
    """Documents of one language that are counted together, in the order of the input."""
    sources: tuple[str, ...] | None = None
    """Only documents of these are counted and changed; null: of all."""

    def __post_init__(self):
        for name in ("at_most", "bucket_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")


def deduplicate_lines(context: Context, partitions: Sequence[Partition], settings: Lines) -> Outcome:
    """Removes frequent lines; a document of which nothing is left is rejected.

    The outcome's facts have `removed_lines`: how many, the top hundred, and the file with every removed line, its language
    and its number of occurrences, the most frequent first.
    """
    concerned = settings.sources
    languages = context.over(f"{STAGE}/languages", partitions, partial(_count_languages, sources=concerned), concerned)
    starts = _starts([piece.facts["languages"] for piece in languages])
    also = [(start, digest(start)) for start in starts]
    buckets = num_buckets(sum(p.bytes for p in partitions if p.of(concerned)) // _BYTES_OF_LINE)
    work = partial(_write_counts, settings=settings, num_buckets=buckets)
    counts = context.over(f"{STAGE}/counts", partitions, work, (settings, buckets), also=also)
    directories = tuple(piece.directory for piece in counts)
    of_counts = digest([piece.digest for piece in counts])
    tasks = [Task(inputs=(bucket, directories), digest=digest([of_counts, bucket]), size=1) for bucket in range(buckets)]
    often = context.step(f"{STAGE}/frequent", tasks, partial(_write_frequent, at_most=settings.at_most), settings)
    lists, of_lists = tuple(piece.directory for piece in often), digest([piece.digest for piece in often])
    removed = context.over(
        f"{STAGE}/remove", partitions, partial(_remove, settings=settings), settings,
        also=[((start, lists), digest([of_start, of_lists])) for start, of_start in also],
    )  # fmt: skip
    inputs = (tuple(piece.directory for piece in removed), lists)
    listed = context.one(f"{STAGE}/list", inputs, [*removed, *often], _list)
    ended = outcome(STAGE, partitions, removed)
    return replace(ended, facts=ended.facts | {"removed_lines": listed.facts | {"file": str(listed.directory / LISTED)}})


def _starts(counts: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    """Of each partition, the documents of every language that lie before it."""
    starts, so_far = [], {}
    for count in counts:
        starts.append({language: so_far.get(language, 0) for language in count})
        so_far |= {language: so_far.get(language, 0) + number for language, number in count.items()}
    return starts


def _count_languages(inputs, directory: Path, *, sources) -> Facts:
    _, partition, _ = inputs
    counts: dict[str, int] = {}
    if partition.of(sources):
        for table in read_groups(partition.path, ["language"]):
            for entry in pc.value_counts(table["language"]).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return {"languages": counts}


class _Buckets:
    """Which bucket each next document of a partition is in, as 64 bits that tell its language and number."""

    def __init__(self, starts: dict[str, int], bucket_documents: int):
        self._next, self._size = dict(starts), bucket_documents

    def salts(self, languages: Sequence[str]) -> np.ndarray:
        salts = np.zeros(len(languages), dtype=np.uint64)
        for row, language in enumerate(languages):
            number = self._next[language]
            self._next[language] = number + 1
            salts[row] = int(digest([language, number // self._size])[:16], 16)
        return salts


def _salted(table: pa.Table, buckets: _Buckets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each line that counts: hash of line, language and bucket; its document's row; its number there."""
    hashes, rows, lines = line_hashes(table["text"])
    mixed = hashes ^ buckets.salts(table["language"].to_pylist())[rows]
    return mix(mixed), rows, lines


def _write_counts(inputs, directory: Path, *, settings: Lines, num_buckets: int) -> Facts:
    _, partition, starts = inputs
    keys = [np.zeros(0, dtype=np.uint64)]
    if partition.of(settings.sources):
        buckets = _Buckets(starts, settings.bucket_documents)
        keys += [_salted(table, buckets)[0] for table in read_groups(partition.path, ["text", "language"])]
    key, count = np.unique(np.concatenate(keys), return_counts=True)
    write_buckets(directory, key % np.uint64(num_buckets), {"key": key, "count": count}, num_buckets)
    return {"lines": int(count.sum())}


def _write_frequent(inputs, directory: Path, *, at_most: int) -> Facts:
    bucket, directories = inputs
    rows = read_bucket(directories, bucket)
    keys, counts = frequent(rows["key"], rows["count"], at_most=at_most)
    write_buckets(directory, np.zeros(len(keys), dtype=np.int64), {"key": keys, "count": counts}, 1)
    return {"frequent": len(keys)}


def _remove(inputs, directory: Path, *, settings: Lines) -> Facts:
    _, partition, (starts, lists) = inputs
    listed = np.sort(read_bucket(lists, 0)["key"])
    buckets = _Buckets(starts, settings.bucket_documents)
    seen: dict[int, tuple[str, str]] = {}

    def judge(table: pa.Table, first_row: int) -> Judged:
        keys, rows, lines = _salted(table, buckets)
        place = np.minimum(np.searchsorted(listed, keys), max(0, len(listed) - 1))
        hit = listed[place] == keys if len(listed) else np.zeros(len(keys), dtype=bool)
        texts, languages = table["text"].to_pylist(), table["language"].to_pylist()
        reasons: list[str | None] = [None] * len(texts)
        values = np.full(len(texts), np.nan)
        changed = list(texts)
        for row in np.unique(rows[hit]):
            of_row = slice(*np.searchsorted(rows, [row, row + 1]))
            chosen = lines[of_row][hit[of_row]]
            split = texts[row].split("\n")
            for key, line in zip(keys[of_row][hit[of_row]].tolist(), chosen.tolist(), strict=True):
                seen.setdefault(key, (languages[row], split[line].strip()[:200]))
            rest = without_lines(texts[row], chosen)
            if rest.strip():
                changed[row] = rest
            else:
                reasons[row], values[row] = "only_frequent_lines", float(len(chosen))
        table = table.set_column(table.schema.get_field_index("text"), "text", pa.array(changed, pa.string()))
        return Judged(
            documents=table, reasons=reasons, values=values, counts={"lines": len(keys), "lines_removed": int(hit.sum())}
        )

    facts = judge_documents(partition.path, directory, judge, stage=STAGE, of_sources=settings.sources)
    order = sorted(seen)
    listed = {
        "key": np.array(order, dtype=np.uint64),
        "language": [seen[k][0] for k in order],
        "line": [seen[k][1] for k in order],
    }
    pq.write_table(pa.table(listed, schema=_SEEN), directory / LISTED, compression="zstd")
    return facts


_SEEN = pa.schema({"key": pa.uint64(), "language": pa.string(), "line": pa.string()})


def _list(inputs, directory: Path) -> Facts:
    removed, lists = inputs
    counts = read_bucket(lists, 0)
    order = np.argsort(counts["key"])
    keys, numbers = counts["key"][order], counts["count"][order]
    seen = pa.concat_tables([pq.read_table(place / LISTED, use_threads=False) for place in removed])
    table = seen.group_by("key", use_threads=False).aggregate([("language", "min"), ("line", "min")])
    found = np.searchsorted(keys, table["key"].to_numpy())
    table = pa.table(
        {"language": table["language_min"], "line": table["line_min"], "occurrences": numbers[found] if len(keys) else []},
        schema=pa.schema({"language": pa.string(), "line": pa.string(), "occurrences": pa.int64()}),
    )
    table = table.sort_by([("occurrences", "descending"), ("language", "ascending"), ("line", "ascending")])
    pq.write_table(table, directory / LISTED, compression="zstd")
    return {"lines": table.num_rows, "top": table.slice(0, 100).to_pylist()}

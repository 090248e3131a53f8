"""Of documents that are the same in some sense, the one that stays: the newest, and of equally new ones the smallest id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.curation.judge import Judged, judge_documents
from llama3_jax.curation.partition import Context, Outcome, Partition, outcome
from llama3_jax.curation.shuffle import piece_and_row, read_bucket, write_buckets
from llama3_jax.curation.step import Facts, Piece, digest


def equal_groups(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that share all keys with another row: (group numbers from 0, rows), sorted by group and row."""
    order = np.lexsort(keys[::-1])
    changes = np.zeros(len(order), dtype=bool)
    for key in keys:
        ordered = key[order]
        changes[1:] |= ordered[1:] != ordered[:-1]
    groups = np.cumsum(changes)
    repeated = (np.bincount(groups) > 1)[groups] if len(groups) else np.zeros(0, dtype=bool)
    return np.unique(groups[repeated], return_inverse=True)[1], order[repeated]


def write_losers(directory: Path, partitions: Sequence[Partition], groups: np.ndarray, numbers: np.ndarray) -> Facts:
    """Of each group of documents all but the one that stays, sorted to their partitions, with the id of that one."""
    order = np.argsort(numbers)
    groups, numbers = groups[order], numbers[order]
    times, ids = _times_and_ids(partitions, numbers)
    newest_first = -np.unique(times, return_inverse=True)[1]
    smallest_first = np.unique(ids, return_inverse=True)[1]
    order = np.lexsort((numbers, smallest_first, newest_first, groups))
    groups, numbers, ids = groups[order], numbers[order], ids[order]
    stays = np.ones(len(groups), dtype=bool)
    stays[1:] = groups[1:] != groups[:-1]
    winners = ids[np.flatnonzero(stays)[np.cumsum(stays) - 1]] if len(groups) else ids
    pieces, rows = piece_and_row(numbers[~stays])
    columns = {"row": rows, "winner": winners[~stays]}
    write_buckets(directory, pieces, columns, len(partitions))
    return {"losers": int((~stays).sum())}


def drop_losers(context: Context, stage: str, partitions: Sequence[Partition], reduced: Sequence[Piece], reason: str) -> Outcome:
    """The last step of a deduplication: each partition without the documents that the reduced pieces list for it."""
    lists = tuple(piece.directory for piece in reduced)
    of_lists = digest([piece.digest for piece in reduced])
    pieces = context.over(
        f"{stage}/drop", partitions, _drop, (stage, reason), also=[((lists, stage, reason), of_lists)] * len(partitions)
    )
    return outcome(stage, partitions, pieces)


def _drop(inputs, directory: Path) -> Facts:
    number, partition, (lists, stage, reason) = inputs
    listed = read_bucket(lists, number)
    winner = dict(zip(listed["row"].tolist(), listed["winner"].tolist(), strict=True))

    def judge(table: pa.Table, first_row: int) -> Judged:
        rows = range(first_row, first_row + table.num_rows)
        return Judged(
            documents=table,
            reasons=[reason if row in winner else None for row in rows],
            details=[winner.get(row, "") for row in rows],
        )

    return judge_documents(partition.path, directory, judge, stage=stage, of_sources=None)


def _times_and_ids(partitions: Sequence[Partition], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of documents in the order of their numbers."""
    pieces, rows = piece_and_row(numbers)
    times, ids = [np.zeros(0, dtype=object)], [np.zeros(0, dtype=object)]
    for piece in np.unique(pieces):
        taken = pa.array(rows[pieces == piece])
        table = pq.read_table(partitions[piece].path, columns=["crawl_time", "id"], use_threads=False).take(taken)
        times.append(table["crawl_time"].to_numpy())
        ids.append(table["id"].to_numpy())
    return np.concatenate(times).astype(object), np.concatenate(ids).astype(object)


"""How attention is cut into tiles: one table by chip and shape (`block_sizes.json`), redone by `llama3 bench attention --tune`.

A row of the table holds for rows of up to `length` positions of its implementation, chip (a prefix of what jax calls the device,
or `*`), head dim and query heads per key/value head; `measured` is the day it was, or null. What is not measured is worked out:
on a TPU the stacked query heads of a tile make up 1,024 columns, so that tiles of few queries, which skip more, still fill the
matrix unit, and long rows have longer tiles of keys, so that their schedule fits a core's scalar memory.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

from llama3_jax.kernels.attention.implementation import Implementation

TABLE = Path(__file__).with_name("block_sizes.json")
LANES = 128
STACKED_COLUMNS = 1024
XLA_BLOCK = 256
LONG = 16_384


class BlockSizes(NamedTuple):
    queries: int
    """Of a tile; on a TPU a multiple of 128, as many times as a group has query heads."""
    keys: int


def block_sizes(
    implementation: Implementation, *, chip: str, head_dim: int, group: int, num_queries: int, num_keys: int
) -> BlockSizes:
    """The tiles for these shapes, no larger than the rows are.

    Args: chip: `device_kind` of the device; group: query heads that share a key/value head.
    """
    if implementation is Implementation.HOPPER:
        return BlockSizes(LANES, LANES)  # what its kernels are written for
    found = _of_table(implementation, chip, head_dim, group, num_keys) or _worked_out(implementation, group, num_keys)
    unit = LANES if implementation is Implementation.TPU else 1
    return BlockSizes(min(found.queries, _rounded(num_queries, unit)), min(found.keys, _rounded(num_keys, unit)))


def _of_table(implementation: Implementation, chip: str, head_dim: int, group: int, length: int) -> BlockSizes | None:
    rows = [
        row
        for row in table()
        if (row["implementation"], row["head_dim"], row["group"]) == (implementation.value, head_dim, group)
        and (row["chip"] == "*" or chip.lower().startswith(row["chip"].lower()))
        and length <= row["length"]
    ]
    best = min(rows, key=lambda row: (row["chip"] == "*", row["length"]), default=None)
    return best and BlockSizes(best["queries"], best["keys"])


def _worked_out(implementation: Implementation, group: int, length: int) -> BlockSizes:
    if implementation is Implementation.TPU:
        return BlockSizes(max(LANES, STACKED_COLUMNS // group // LANES * LANES), 512 if length <= LONG else 2 * 512)
    return BlockSizes(XLA_BLOCK, XLA_BLOCK)


@functools.cache
def table() -> list[dict]:
    return json.loads(TABLE.read_text())["rows"]


def _rounded(size: int, unit: int) -> int:
    return size + -size % unit

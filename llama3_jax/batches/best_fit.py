"""Best-fit decreasing: which row each piece goes into, so that none is cut and little room is left.

The longest pieces go first, each into the row with the least room that still holds it (Ding et al. 2024, "Fewer
Truncations Improve Language Modeling"). Pieces of one size are placed together, and so are rows with the same room: the
work grows with the number of different sizes, not of pieces.

Shape letters: I pieces.
"""

from __future__ import annotations

import numpy as np


def best_fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """int64 [I]: the row, counted from 0 without a gap, of each piece of `sizes` (1 <= size <= length)."""
    row_of = np.empty(sizes.size, np.int64)
    by_size = np.argsort(-sizes, kind="stable")
    different, counts = np.unique(sizes, return_counts=True)
    rows_with: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a row has room for r more
    num_rows = placed = 0
    for size, count in zip(different[::-1].tolist(), counts[::-1].tolist(), strict=True):
        pieces = by_size[placed : placed + count]
        placed += count
        if size == length:
            row_of[pieces] = np.arange(num_rows, num_rows + count)
            num_rows += count
            continue
        done = 0
        while done < count:
            enough = rooms >> size
            if enough:
                room = size + (enough & -enough).bit_length() - 1
            else:  # as many new rows as the rest needs
                room = length
                needed = -(-(count - done) // (length // size))
                rows_with[room] = list(range(num_rows, num_rows + needed))
                num_rows += needed
                rooms |= 1 << room
            rows, each = rows_with[room], room // size
            taken = min(len(rows), -(-(count - done) // each))
            target = np.repeat(np.array(rows[-taken:], np.int64), each)[: count - done]
            row_of[pieces[done : done + target.size]] = target
            done += target.size
            partly = target.size % each  # the last row took fewer than it had room for
            for left, number in ((room - partly * size, int(partly > 0)), (room - each * size, taken - (partly > 0))):
                moved = [rows.pop() for _ in range(number)]
                if left and moved:
                    rows_with.setdefault(left, []).extend(moved)
                    rooms |= 1 << left
            if not rows:
                rooms &= ~(1 << room)
                del rows_with[room]
    return row_of

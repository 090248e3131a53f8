"""How deep HTML nests, before a parser is asked: some pages would cost it, or what walks its tree, quadratic time."""

from __future__ import annotations

import functools

import numpy as np

_NEVER_DEEP = (
    "area base br col embed hr img input link meta source track wbr p li dt dd tr td th option thead tbody tfoot html head body "
    "! ?"
).split()
"""Elements without content, and those that close one another."""


def deeper_than(html: bytes, limit: int) -> int:
    """0, or a depth above `limit` that the page reaches.

    Told by the first two letters of tag names, so that the depth is a little too small for some elements.
    """
    if html.count(b"<") <= limit:
        return 0
    held = np.frombuffer(html + b"   ", np.uint8)
    begins = np.flatnonzero(held[:-3] == ord("<"))
    closing = held[begins + 1] == ord("/")
    name = begins + 1 + closing
    weight = _weights()[held[name].astype(np.int64) << 8 | held[name + 1]].astype(np.int64)
    depth = np.cumsum(np.where(closing, -weight, weight))
    lowest = np.minimum(np.minimum.accumulate(depth), 0)  # ends without a beginning close nothing
    deepest = int((depth - lowest).max())
    return deepest if deepest > limit else 0


@functools.cache
def _weights() -> np.ndarray:
    """Of the first two bytes of a tag's name: 1 for an element that may hold another of its kind."""
    weights = np.zeros(2**16, np.int8)
    letters = [*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)]
    for letter in letters:
        weights[letter << 8 : (letter + 1) << 8] = 1
    for name in _NEVER_DEEP:
        for start in {name[0], name[0].upper()}:
            seconds = {name[1], name[1].upper()} if len(name) > 1 else set(" \t\r\n/>")
            for second in seconds:
                weights[ord(start) << 8 | ord(second)] = 0
    return weights

"""How deep HTML nests, before a parser is asked: some pages would cost it, or what walks its tree, quadratic time."""

from __future__ import annotations

import functools
import re

import numpy as np

_NEVER_DEEP = (
    "area base br col embed hr img input link meta source track wbr p li dt dd tr td th option thead tbody tfoot html head body "
    "a ! ?"
).split()
"""Elements without content, and those of which the next closes the last."""
_NOT_MARKUP = re.compile(rb"<(script|style|textarea|title|noscript)\b.*?</\1|<!--.*?-->", re.I | re.S)


def deeper_than(html: bytes, limit: int) -> int:
    """0, or a depth above `limit` that the page reaches.

    Told by the first two letters of tag names: of each the most that are open at once, whatever else is closed between; so
    the depth is a little too small for some elements, and too large where a page forgets many ends.
    """
    if _depth(html, limit) <= limit:
        return 0
    depth = _depth(_NOT_MARKUP.sub(b"", html), limit)  # in scripts, `a<b` opens nothing
    return depth if depth > limit else 0


def _depth(html: bytes, limit: int) -> int:
    """0 where it cannot be above `limit`."""
    held = np.frombuffer(html, np.uint8)
    begins = np.flatnonzero(held[:-3] == ord("<"))
    if len(begins) <= limit:
        return 0
    closing = held[begins + 1] == ord("/")
    first = begins + 1 + closing
    name = _names()[held[first].astype(np.int64) << 8 | held[first + 1]]
    step = np.where(closing, -1, 1)
    counts = np.bincount(name, minlength=1)
    counts[0] = 0
    rare = counts <= 64
    depth = _deepest(np.where(rare[name] & (name > 0), step, 0))
    for frequent in np.flatnonzero(~rare):
        depth += _deepest(step[name == frequent])
    return depth


def _deepest(steps: np.ndarray) -> int:
    """The most that are open at once; ends without a beginning close nothing."""
    if not steps.size:
        return 0
    depth = np.cumsum(steps)
    return int((depth - np.minimum(np.minimum.accumulate(depth), 0)).max())


@functools.cache
def _names() -> np.ndarray:
    """Of the first two bytes of a tag's name, in lower case: a small number, 0 for those that cannot nest deep."""
    numbers = np.arange(2**16, dtype=np.int64)
    lower = numbers.copy()
    for shift in (0, 8):
        letter = numbers >> shift & 0xFF
        lower += np.where((letter >= ord("A")) & (letter <= ord("Z")), 32 << shift, 0)
    begins = lower >> 8
    lower[(begins < ord("a")) | (begins > ord("z"))] = 0
    for name in _NEVER_DEEP:
        seconds = name[1] if len(name) > 1 else " \t\r\n/>"
        for second in seconds:
            lower[lower == (ord(name[0]) << 8 | ord(second))] = 0
    return np.where(lower > 0, (lower >> 8) - ord("a") + 1 << 6 | lower & 63, 0)

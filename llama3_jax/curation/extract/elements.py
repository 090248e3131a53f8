"""A page as arrays: its tags in order, the text between them, and of each element where it ends and what it holds."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

import numpy as np

_UNSEEN = re.compile(
    r"<(?:(style|svg|noscript|iframe|template|canvas|object|video|audio|select|datalist|head|script(?![^>]*type=\"math/))\b|!--)"
)
_TAGS_THAT_SAY_NOTHING = re.compile(
    r"</?(?:b|i|em|strong|font|u|small|abbr|cite|mark|kbd|samp|var|tt|time|big|ins|bdi|bdo|dfn|acronym|strike|data|wbr|q|s|"
    r"input|link|meta|source|track|embed|param|img|base|area|col|!DOCTYPE)(?:\s[^>]*)?>"
)
_SPLIT = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)([^>]*)>")


VOID, ANCHOR, PRE, LINK_LIST = range(1, 5)
"""What a name says of an element: without content, a link, text as it stands, what may be a list of links."""
_KINDS = {"br": VOID, "hr": VOID, "a": ANCHOR, "pre": PRE} | dict.fromkeys("ul ol div section table dl form".split(), LINK_LIST)


class Elements(NamedTuple):
    """An element is known by the number of its start tag among all tags; text i stands before tag i."""

    names: list[str]
    attributes: list[str]
    texts: list[str]
    """One more than tags."""
    starts: np.ndarray
    """Tag numbers of start tags."""
    ends: np.ndarray
    """Of each, the tag number of its end tag (its own number for an element without content)."""
    end_of: list[int]
    """The same by tag number; -1 for an end tag."""
    levels: np.ndarray
    """Of each, how deep it is."""
    kinds: np.ndarray
    """Of each, VOID, ANCHOR, PRE, LINK_LIST, or 0."""


def seen(page: str) -> str:
    """Serialised HTML without what is never shown as text; scripts of formulas stay."""
    out, place, without_end = [], 0, set()
    while (found := _UNSEEN.search(page, place)) is not None:
        end = f"</{found[1]}>" if found[1] else "-->"
        last = -1 if end in without_end else page.find(end, found.end())
        if last < 0:
            without_end.add(end)
            out.append(page[place : found.end()])
            place = found.end()
        else:
            out.append(page[place : found.start()])
            place = last + len(end)
    out.append(page[place:])
    return "".join(out)


def take_apart(page: str) -> Elements:
    """What `seen` and whatever comes after it left of serialised HTML, as elements."""
    pieces = _SPLIT.split(_TAGS_THAT_SAY_NOTHING.sub("", page))
    texts, closing, names, attributes = pieces[0::4], pieces[1::4], pieces[2::4], pieces[3::4]
    count = len(names)
    kinds = np.fromiter(map(_KINDS.get, names, itertools.repeat(0)), np.uint8, count)
    void = kinds == VOID
    is_end = np.fromiter(map(bool, closing), bool, count)
    step = np.where(is_end, -1, 1)
    step[void] = 0
    depth = np.cumsum(step)
    level = np.where(is_end, depth + 1, depth)  # of the element that a tag begins or ends
    level[void] += 1
    numbers = np.arange(count)
    paired = ~void
    order = numbers[paired][_stable_order(level[paired])]  # start, end, start, end, ... of each level
    if len(order) % 2 or is_end[order[0::2]].any() or not is_end[order[1::2]].all():
        return take_apart(_mended(pieces))  # what was taken out began in one element and ended in another
    ends = numbers.copy()
    ends[order[0::2]] = order[1::2]
    starts = numbers[~is_end]
    end_of = np.where(is_end, -1, ends).tolist()
    return Elements(names, attributes, texts, starts, ends[starts], end_of, level[starts], kinds[starts])


def _stable_order(values: np.ndarray) -> np.ndarray:
    """What sorts the values: in linear time, where few bits hold them."""
    if not len(values):
        return values
    values = values - values.min()
    return np.argsort(values.astype(np.min_scalar_type(int(values.max()))), kind="stable")


def _mended(pieces: list[str]) -> str:
    """The page with ends for all that begins, and without ends of nothing."""
    out, opened = [pieces[0]], []
    for closing, name, attributes, text in zip(pieces[1::4], pieces[2::4], pieces[3::4], pieces[4::4], strict=True):
        if not closing:
            out.append(f"<{name}{attributes}>")
            if _KINDS.get(name) != VOID:
                opened.append(name)
        elif name in opened[-64:]:
            while (last := opened.pop()) != name:
                out.append(f"</{last}>")
            out.append(f"</{name}>")
        out.append(text)
    return "".join([*out, *(f"</{name}>" for name in reversed(opened))])

"""What is said of an element again and again, judged once."""

import functools
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_SHORT = 256
"""Characters; what is longer holds data, and no page says it twice."""


def remembered(judge: Callable[[str], T]) -> Callable[[str], T]:
    """`judge`, whose results for the last 16,384 different short strings are kept."""
    kept = functools.lru_cache(maxsize=2**14)(judge)
    return functools.wraps(judge)(lambda said: kept(said) if len(said) <= _SHORT else judge(said))

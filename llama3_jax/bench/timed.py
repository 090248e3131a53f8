"""Calls timed against each other, on whatever device they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jax

from llama3_jax.bench.measure import SETTLE_S

LEAST_S, MOST_CALLS = 0.02, 50
"""Short calls are made in a row, for so long, since a call of an accelerator takes time to be handed over."""


def timed(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each call in each round, begun by another call each.

    Everybody begins rested, as FlashAttention's benchmarks do: the threads of a CPU settle, and a card that was held back for the
    power that the call before took recovers. Then a call is made once, which compiles it, or finds memory and caches as the one
    before left them.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds):
        turn = number % len(calls)
        for place in (*range(turn, len(calls)), *range(turn)):
            time.sleep(SETTLE_S)
            jax.block_until_ready(calls[place]())
            once = _seconds(calls[place], 1)
            in_a_row = min(MOST_CALLS, int(LEAST_S / once))
            seconds[place].append(_seconds(calls[place], in_a_row) / in_a_row if in_a_row > 1 else once)
    return seconds


def _seconds(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    jax.block_until_ready([call() for _ in range(times)])
    return time.perf_counter() - started

"""A job that is told to stop: whichever of its processes a signal reaches, all stop after the same step."""

from __future__ import annotations

from llama3_jax.sharding import processes

STOP = "stop"


def told_to_stop(requested: str | None, done: int, lag: int) -> str | None:
    """Name of the signal that ends the run after step `done`, the same in every process; None to go on.

    The process that is told names a step that none has passed: `lag + 1` further. The others have read the metrics of
    all but the last `lag` steps, which this process took part in, so they are at most `lag` steps ahead of it; and
    before they end that further step they look here again. A process that is alone is told by its own `Preemption`.

    Args:
        requested: name of the signal that this process got.
        lag: steps that are begun before the metrics of the first of them are read.
    """
    if processes.count() == 1:
        return None
    if requested:
        processes.post(STOP, {"signal": requested, "after": done + lag + 1})
    stop = processes.posted(STOP)
    return stop["signal"] if stop and done >= stop["after"] else None

"""The processes of a job: which one this is, and what they tell each other.

A process that is alone is its own first; each function below is then trivial and imports nothing. The processes of a job
talk through the coordination service of `jax.distributed`, which the first one hosts: small values, between the hosts,
whatever the devices are doing, from any thread. jax has no public name for that service; this is the only file that knows
the private one.

A meeting (`barrier`, `once`, `of_first`) is held by all processes, those of one name in the same order everywhere.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Callable
from typing import Any

PATIENCE_S = 24 * 60 * 60
"""How long one process waits for another, which may be preparing a corpus. One that fails or dies ends the wait at once:
it ends the job (`commands.job`)."""

_held: collections.Counter[str] = collections.Counter()


def index() -> int:
    """Which of the job's processes this one is, from 0."""
    state = _state()
    return state.process_id if state else 0


def count() -> int:
    state = _state()
    return state.num_processes if state else 1


def is_first() -> bool:
    """Whether this process does what is done once: it owns the run directory and speaks for the job."""
    return index() == 0


def barrier(name: str) -> None:
    """Returns when every process is here."""
    if state := _state():
        state.client.wait_at_barrier(_meeting(name), PATIENCE_S * 1000)


def once(name: str, do: Callable[[], Any]) -> None:
    """Calls `do` in the first process alone; returns in every process when that is done."""
    if is_first():
        do()
    barrier(name)


def of_first(name: str, make: Callable[[], Any]) -> Any:
    """A JSON value that the first process alone makes, in every process."""
    state = _state()
    if state is None:
        return make()
    key = _meeting(name)
    if is_first():
        state.client.key_value_set(key, json.dumps(make()))
    return json.loads(state.client.blocking_key_value_get(key, PATIENCE_S * 1000))


def post(name: str, value: Any) -> Any:
    """Sets a JSON value for all to see, unless one stands there already; returns the one that stands."""
    state = _state()
    if state is None:
        return value
    try:
        state.client.key_value_set(f"{name}/posted", json.dumps(value))
    except Exception as error:  # of a class that moves between versions of jax
        if "ALREADY_EXISTS" not in str(error):
            raise
    return posted(name)


def posted(name: str) -> Any:
    """What was posted under `name`, or None. One call to the service: half a millisecond on the same machine."""
    return next(iter(all_posted(name)), None)


def all_posted(name: str) -> list[Any]:
    """What was posted under `name` and under the names that begin with `name/`."""
    state = _state()
    found = state.client.key_value_dir_get(f"{name}/") if state else []
    return [json.loads(text) for _, text in found]


def _meeting(name: str) -> str:
    _held[name] += 1
    return f"{name}/{_held[name]}"


def _state() -> Any:
    """jax's handle of the job, or None; jax is not imported to find out that there is none."""
    distributed = sys.modules.get("jax._src.distributed")
    return distributed.global_state if distributed and distributed.global_state.client else None

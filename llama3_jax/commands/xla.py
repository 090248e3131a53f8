"""XLA's flags for GPUs, as named sets that a run file asks for, and the share of a GPU's memory that jax takes.

XLA reads them once, before it looks for devices. They change nothing on CPUs and TPUs. Numbers are ours: nobody prints any.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

VARIABLE, MEMORY = "XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"


class FlagSet(enum.Enum):
    LATENCY_HIDING = "latency_hiding"
    """Collectives run beside the computation that does not need them, also across the steps of the loop over layers."""
    COMBINE_COLLECTIVES = "combine_collectives"
    """The arrays of a layer are moved by one collective instead of one each."""
    DETERMINISTIC = "deterministic"
    """The same bits every time: no atomics, and no algorithm chosen by a stopwatch. Slower."""

    @property
    def flags(self) -> dict[str, str]:
        return _FLAGS[self]


_FLAGS = {
    FlagSet.LATENCY_HIDING: {
        "xla_gpu_enable_latency_hiding_scheduler": "true",
        "xla_gpu_enable_while_loop_double_buffering": "true",
        "xla_gpu_enable_highest_priority_async_stream": "true",
    },
    FlagSet.COMBINE_COLLECTIVES: {
        "xla_gpu_all_gather_combine_threshold_bytes": str(2**30),
        "xla_gpu_reduce_scatter_combine_threshold_bytes": str(2**30),
        "xla_gpu_all_reduce_combine_threshold_bytes": str(2**30),
    },
    FlagSet.DETERMINISTIC: {"xla_gpu_deterministic_ops": "true"},
}


@dataclass(frozen=True, kw_only=True)
class Xla:
    flags: tuple[FlagSet, ...] = ()
    """Sets that are put before what the environment says in XLA_FLAGS, which wins where both speak."""
    memory_fraction: float | None = None
    """Of a GPU's memory that jax takes at its start; null leaves it at jax's 0.75."""

    def __post_init__(self) -> None:
        if self.memory_fraction is not None and not 0 < self.memory_fraction <= 1:
            raise ValueError(f"memory_fraction={self.memory_fraction}; use a share of the memory, above 0 and up to 1")

    def apply(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Tells XLA, which must not have looked for devices yet.

        Raises: ValueError if it has, and would not hear.
        """
        lines = [f"--{name}={value}" for each in self.flags for name, value in each.flags.items()]
        told = environment.get(VARIABLE, "").split()
        wanted = {VARIABLE: " ".join([*(line for line in lines if line not in told), *told])} if lines else {}
        if self.memory_fraction is not None:
            wanted[MEMORY] = environment.get(MEMORY, f"{self.memory_fraction:g}")
        wanted = {name: value for name, value in wanted.items() if environment.get(name) != value}
        if wanted and _has_begun():
            setting = "; ".join(f"export {name}='{value}'" for name, value in wanted.items())
            raise ValueError(
                f"xla ({self}) comes too late: jax has looked for its devices in this process; begin a new one, or before that "
                f"{setting}"
            )
        environment.update(wanted)

    def __str__(self) -> str:
        share = [] if self.memory_fraction is None else [f"memory fraction {self.memory_fraction:g}"]
        return ", ".join([*(each.value for each in self.flags), *share]) or "as it is"


def in_effect(xla: Xla) -> str:
    """What this process told XLA, by name and in full; empty if nothing."""
    flags = os.environ.get(VARIABLE, "")
    fraction = os.environ.get(MEMORY)
    said = [*([flags] if flags else []), *([f"{MEMORY}={fraction}"] if fraction else [])]
    return f"XLA: {xla}: {' '.join(said)}" if said else ""


def _has_begun() -> bool:
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # nothing public says so

    return xla_bridge.backends_are_initialized()

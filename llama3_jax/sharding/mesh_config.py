"""How many devices each kind of parallelism gets; readable before any device is touched."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the four mesh axes, outermost first; their product is the number of devices."""

    pipeline: int = 1
    data: int = 1
    """Rows of the batch, and the shards of parameters and optimizer state (FSDP)."""
    sequence: int = 1
    """Pieces of a row's positions (context parallelism)."""
    model: int = 1
    """Heads, feed-forward columns and vocabulary entries (tensor parallelism)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name}={getattr(self, field.name)} is not a device count; use 1 or more")
        if self.pipeline > 1:
            raise ValueError(
                f"pipeline={self.pipeline}: pipeline stages are not built yet; use pipeline=1 and let data, model "
                "and sequence share the devices"
            )

    @property
    def size(self) -> int:
        return self.pipeline * self.data * self.sequence * self.model

    def __str__(self) -> str:
        return " x ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))

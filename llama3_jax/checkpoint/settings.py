"""How often a run is saved, where, and which of its checkpoints stay."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llama3_jax.checkpoint.place import place_at
from llama3_jax.tokenizer.object_store import is_url


@dataclass(frozen=True, kw_only=True)
class Saving:
    every_steps: int
    """Steps between saves; the end of every stage is saved too."""
    keep_last: int = 2
    keep_every: int | None = None
    """Checkpoints at multiples of this step count are never deleted."""
    directory: str | None = None
    """Where checkpoints lie, for one run at a time: an absolute path or gs://BUCKET/PATH; null is checkpoints/ in the run
    directory."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every={self.keep_every}; use 1 or more steps, or null")
        if self.directory is not None:
            if not is_url(self.directory) and not os.path.isabs(self.directory):
                raise ValueError(f"directory={self.directory}; use an absolute path, gs://BUCKET/PATH or null")
            place_at(self.directory)

"""Packing policies: how the documents of a source become rows of equal length."""

from __future__ import annotations

import enum

from llama3_jax.batches.best_fit import best_fit
from llama3_jax.batches.concatenate import Concatenated
from llama3_jax.batches.crop import crop
from llama3_jax.batches.planned import Planned
from llama3_jax.batches.source import Source
from llama3_jax.batches.stream import TokenStream


class Packing(enum.Enum):
    """The paper does not print its policy; under every one of them attention stays inside a document (section 3.2)."""

    CONCATENATE = "concatenate"
    """Documents end to end, cut where a row is full: no padding, nothing dropped, many documents cut."""
    BEST_FIT = "best_fit"
    """Each document whole, into the row it fills best; only one longer than a row is cut, into whole rows and a rest.
    Nothing is dropped; what no document fits is padding."""
    CROP = "crop"
    """Every piece begins with its document; one that does not fit is cut where the row ends and its rest dropped."""

    def source(self, stream: TokenStream, *, seed: str, longest_row: int) -> Source:
        """Args: longest_row: of the whole run, in positions."""
        match self:
            case Packing.CONCATENATE:
                return Concatenated(stream, seed=seed, block=longest_row)
            case Packing.BEST_FIT:
                return Planned(stream, name=self.value, assign=best_fit, splits=True, seed=seed)
            case Packing.CROP:
                return Planned(stream, name=self.value, assign=crop, splits=False, seed=seed)

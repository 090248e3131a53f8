"""What a piece of a stage counts: documents and bytes in and out, reasons, measured values, samples; and their sums."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

SAMPLES = 8
"""Kept for each reason, and of kept documents, by the lowest hash of their ids: a random choice, always the same."""
SAMPLE_CHARACTERS = 1_500


class Tally:
    """Counts of one piece; `facts` are they as JSON, and `total` adds those of many."""

    def __init__(self, stage: str):
        self.stage = stage
        self.documents_in = self.bytes_in = 0
        self.kept, self.rejected = _Group(), {}
        self.languages: dict[str, list[int]] = {}
        self.sources: dict[str, list[int]] = {}
        self.licenses: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}
        self.measures: dict[str, dict[str, int]] = {}

    def read(self, documents: int, size: int) -> None:
        self.documents_in += documents
        self.bytes_in += size

    def keep(self, document: Mapping[str, Any], size: int) -> None:
        self.kept.add(document, size, {})
        for counts, column in ((self.languages, "language"), (self.sources, "source"), (self.licenses, "license")):
            entry = counts.setdefault(document[column] or "unknown", [0, 0])
            entry[0] += 1
            entry[1] += size
        octave = str(int(math.log2(size))) if size else "0"
        self.lengths[octave] = self.lengths.get(octave, 0) + 1

    def reject(self, document: Mapping[str, Any], size: int, reason: str, value: float, detail: str) -> None:
        self.rejected.setdefault(reason, _Group()).add(document, size, {"value": _finite(value), "detail": detail})

    def measure(self, name: str, values: Iterable[float]) -> None:
        counts = self.measures.setdefault(name, {})
        for value in values:
            if value == value:  # not a number: not measured
                rounded = f"{value:.2g}"
                counts[rounded] = counts.get(rounded, 0) + 1

    def facts(self) -> dict[str, Any]:
        """Raises: AssertionError unless every document that came in was kept or rejected."""
        rejected = {reason: group.facts() for reason, group in sorted(self.rejected.items())}
        num_rejected = sum(group["documents"] for group in rejected.values())
        assert self.documents_in == self.kept.documents + num_rejected, (self.stage, self.documents_in, num_rejected)
        return {
            "stage": self.stage,
            "documents_in": self.documents_in,
            "bytes_in": self.bytes_in,
            "kept": self.kept.facts(),
            "rejected": rejected,
            "languages": dict(sorted(self.languages.items())),
            "sources": dict(sorted(self.sources.items())),
            "licenses": dict(sorted(self.licenses.items())),
            "lengths": self.lengths,
            "measures": self.measures,
        }


class _Group:
    """Documents with one fate."""

    def __init__(self):
        self.documents = self.bytes = 0
        self._samples: dict[str, dict[str, Any]] = {}

    def add(self, document: Mapping[str, Any], size: int, why: Mapping[str, Any]) -> None:
        self.documents += 1
        self.bytes += size
        order = hashlib.blake2b(document["id"].encode(), digest_size=8).hexdigest()
        if len(self._samples) == SAMPLES and order >= max(self._samples):
            return
        shown = {name: document[name] for name in ("id", "url", "source", "language")}
        self._samples[order] = shown | {"text": document["text"][:SAMPLE_CHARACTERS], **why}
        if len(self._samples) > SAMPLES:
            del self._samples[max(self._samples)]

    def facts(self) -> dict[str, Any]:
        return {"documents": self.documents, "bytes": self.bytes, "samples": dict(sorted(self._samples.items()))}


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of a whole stage from those of its pieces: numbers are added, lists of counts too, and of samples the
    lowest are kept."""
    summed: dict[str, Any] = {}
    for part in parts:
        _add(summed, part)
    return summed


def _add(into: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if name == "samples":
            both = into.get(name, {}) | value
            into[name] = {key: both[key] for key in sorted(both)[:SAMPLES]}
        elif isinstance(value, Mapping):
            _add(into.setdefault(name, {}), value)
        elif isinstance(value, list):
            into[name] = [a + b for a, b in zip(into.get(name, [0] * len(value)), value, strict=True)]
        elif isinstance(value, str):
            into[name] = value
        else:
            into[name] = into.get(name, 0) + value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

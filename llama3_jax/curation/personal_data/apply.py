"""What becomes of a document with personal data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama3_jax.curation.personal_data.density import items_per_1000_words
from llama3_jax.curation.personal_data.find import KINDS, find

Action = Literal["keep", "mask", "drop"]


@dataclass(frozen=True, kw_only=True)
class PersonalData:
    """For each kind: keep it as it stands, mask it as `<email>`, `<phone>` and so on, or drop its document. The paper
    prints that domains dense in it are left out, nothing of masks: these are ours."""

    email: Action = "mask"
    phone: Action = "mask"
    ip: Action = "mask"
    card: Action = "mask"
    iban: Action = "mask"
    national_id: Action = "mask"
    max_items_per_1000_words: float | None = 50.0
    """A document with more is dropped: a directory of people. Of documents with at least ten items."""

    def __post_init__(self):
        if self.max_items_per_1000_words is not None and self.max_items_per_1000_words < 0:
            raise ValueError(f"max_items_per_1000_words={self.max_items_per_1000_words}; use 0 or more, or null for no bound")


def apply(text: str, settings: PersonalData) -> tuple[str, dict[str, int], str | None, float]:
    """Returns: the text with masks; how many of each kind were found; why the document is to be dropped, or None; the
    number that goes with it. What is masked is not found again."""
    items = find(text)
    counts = {kind: 0 for kind in KINDS}
    if not items:
        return text, counts, None, 0.0
    pieces, end = [], 0
    for item in items:
        counts[item.kind] += 1
        if getattr(settings, item.kind) == "mask":
            pieces += [text[end : item.start], f"<{item.kind}>"]
            end = item.end
    for kind, count in counts.items():
        if count and getattr(settings, kind) == "drop":
            return text, counts, f"personal_data.{kind}", float(count)
    density = items_per_1000_words(len(items), text)
    most = settings.max_items_per_1000_words
    if most is not None and len(items) >= 10 and density > most:
        return text, counts, "personal_data.density", density
    return "".join([*pieces, text[end:]]), counts, None, 0.0

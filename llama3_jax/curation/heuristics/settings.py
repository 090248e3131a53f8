"""Which rules judge the documents of which language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llama3_jax.curation.heuristics.c4 import C4
from llama3_jax.curation.heuristics.dirty_words import DirtyWords
from llama3_jax.curation.heuristics.divergence import Divergence
from llama3_jax.curation.heuristics.gopher import GopherQuality
from llama3_jax.curation.heuristics.repetition import GopherRepetition, Repetition


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Sets of rules in the order in which they judge; null leaves one out."""

    repetition: Repetition | None = Repetition()
    dirty_words: DirtyWords | None = None
    divergence: Divergence | None = Divergence()
    gopher_quality: GopherQuality | None = None
    gopher_repetition: GopherRepetition | None = None
    c4: C4 | None = None


@dataclass(frozen=True, kw_only=True)
class Heuristics:
    """Rules of every language, and those of some that have their own."""

    default: Rules = Rules()
    languages: Mapping[str, Rules] = field(default_factory=dict)
    """Language -> rules that take the place of the default."""

    def of(self, language: str) -> Rules:
        return self.languages.get(language, self.default)

    def lists(self) -> list[str]:
        """Every file that the rules read."""
        every = [rules.dirty_words for rules in (self.default, *self.languages.values())]
        return sorted({path for words in every if words is not None for path in words.lists.values()})

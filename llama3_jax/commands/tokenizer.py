"""`llama3 tokenizer`: learns a vocabulary, extends one, and compares how far they compress texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llama3_jax.curation.document import Document
from llama3_jax.curation.files import read_documents
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.extend import changed, extend
from llama3_jax.tokenizer.special_tokens import NUM_SPECIAL_TOKENS
from llama3_jax.tokenizer.train_bpe import save_ranks, train_bpe
from llama3_jax.tokenizer.words import count_words, in_own_scripts

Paths = Sequence[str | Path]
DOCUMENTS_AT_A_TIME = 256


def train_tokenizer(out: str | Path, texts: Paths, *, vocab_size: int) -> Iterator[str]:
    """Learns `vocab_size` ids, 256 special ones among them, and writes a rank file: the lines that the command prints.

    Raises: FileNotFoundError, ValueError for the texts; ValueError if they hold too few merges, or `out` is there.
    """
    _require_new(out)
    tokens = train_bpe(_texts(texts), vocab_size=vocab_size)
    save_ranks(out, tokens)
    yield f"{out}: {len(tokens):,} ranks and {NUM_SPECIAL_TOKENS} special tokens, learnt from {', '.join(map(str, texts))}"


def extend_tokenizer(
    out: str | Path, texts: Paths, *, base: str | Path, add: int, keep: Paths, num_processes: int | None = None
) -> Iterator[str]:
    """Adds `add` ranks, learnt from `texts`, to those of `base`, so that no piece of the texts of `keep` is encoded otherwise.

    Pieces in scripts that the kept texts only quote (less than 1% of their letters) are not kept.

    Raises: as `train_tokenizer`.
    """
    _require_new(out)
    if add < 1:
        raise ValueError(f"--add {add}; use 1 or more")
    tokens, processes = Tokenizer.load(base).tokens, num_processes or os.cpu_count() or 1
    words, kept = (count_words(_texts(paths), num_processes=processes) for paths in (texts, keep))
    kept = in_own_scripts(kept)
    yield f"{sum(words.values()):,} pieces to learn from, {len(words):,} of them different; {len(kept):,} different ones are kept"
    longer = extend(tokens, words, kept, add)
    differ, pieces = changed(tokens, longer, kept)
    assert not differ, "a kept piece has other ids"
    save_ranks(out, longer)
    yield f"{out}: {len(tokens):,} ranks of {base} and {add:,} new ones"
    yield f"all {pieces:,} pieces of the kept texts, in the scripts they are written in, have the ids they had"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Of one source by one rank file, or of what it holds in one language."""

    source: str
    language: str
    """As its records say; empty for all together."""
    ranks: str
    characters: int
    num_bytes: int
    words: int
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.source}, {self.language}" if self.language else self.source


def compression(texts: Paths, ranks: Paths) -> list[Compression]:
    """Each source by each rank file, and each of its languages. Raises: FileNotFoundError, ValueError for either."""
    tokenizers = {str(path): Tokenizer.load(path) for path in ranks}
    found = []
    for source in map(str, texts):
        counts: dict[str, Counter[str]] = {"": Counter()}
        for documents in _batches(read_documents([source])):
            contents = [document.text for document in documents]
            tokens = {name: [ids.size for ids in each.encode_batch(contents)] for name, each in tokenizers.items()}
            for number, document in enumerate(documents):
                text = document.text
                count = Counter({"characters": len(text), "num_bytes": len(text.encode()), "words": len(text.split())})
                count.update({name: each[number] for name, each in tokens.items()})
                for language in dict.fromkeys(["", document.language]):
                    counts.setdefault(language, Counter()).update(count)
        found += [
            Compression(
                source=source, language=language, ranks=name, characters=count["characters"], num_bytes=count["num_bytes"],
                words=count["words"], tokens=count[name],
            )
            for language, count in counts.items()
            if language or len(counts) != 2  # one language alone is the whole
            for name in tokenizers
        ]  # fmt: skip
    return found


def compare_tokenizers(texts: Paths, ranks: Paths, *, plot: str | Path | None = None) -> Iterator[str]:
    """A table of `compression`, and its characters per token as a plot: the lines that the command prints."""
    found = compression(texts, ranks)
    width = max(len(each.name) for each in found) + 2
    yield f"{'text':{width}}{'characters/token':>18}{'bytes/token':>13}{'words/token':>13}{'tokens':>14}  ranks"
    for each in found:
        characters, num_bytes, words = (count / each.tokens for count in (each.characters, each.num_bytes, each.words))
        yield f"{each.name:{width}}{characters:>18.3f}{num_bytes:>13.3f}{words:>13.3f}{each.tokens:>14,}  {each.ranks}"
    if plot:
        _plot(found, plot)
        yield f"plotted: {plot}"


def _plot(found: Sequence[Compression], path: str | Path) -> None:
    from matplotlib.figure import Figure

    texts, ranks = (list(dict.fromkeys(getattr(each, name) for each in found)) for name in ("name", "ranks"))
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(texts) * len(ranks)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(ranks)
    for number, name in enumerate(ranks):
        rates = [each.characters / each.tokens for each in found if each.ranks == name]
        bars = axes.barh([place + number * height for place in range(len(texts))], rates, height, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks([place + (len(ranks) - 1) * height / 2 for place in range(len(texts))], texts)
    axes.invert_yaxis()
    axes.set_xlabel("characters per token")
    axes.margins(x=0.1, y=0.01)
    figure.legend(loc="outside upper center", ncols=len(ranks))
    figure.savefig(path, dpi=120)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, DOCUMENTS_AT_A_TIME)):
        yield batch


def _texts(paths: Paths) -> Iterator[str]:
    return (document.text for document in read_documents(list(paths)))


def _require_new(out: str | Path) -> None:
    if Path(out).exists():
        raise ValueError(f"{out} is there already, and models may depend on it; choose another --out, or remove it")

"""A language model of one's own, from labelled text.

`python -m llama3_jax.curation.language.train CORPUS MODEL SEED EPOCHS BUCKETS` is what `train_language_model` starts, and
nothing for people: fastText needs memory that nobody used before.
"""

from __future__ import annotations

import collections
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.curation.language.identify import LABEL, LanguageModel, sample_of

_PARTS = 3
"""Each text is learned from as a whole and in so many parts, or short texts would be told badly: 99.3% without."""


@dataclass(frozen=True)
class Trained:
    """How a model does on what it did not see."""

    accuracy: float
    of_language: Mapping[str, float]
    """Language -> share of its held-out texts that are told right."""
    confused: Mapping[tuple[str, str], int]
    """(language, taken for) -> texts."""
    held_out: int
    """Texts."""
    trained_on: int
    """Texts."""


def train_language_model(
    labelled: Iterable[tuple[str, str, str]], path: str | Path, *, held_out_fraction: float = 0.2, seed: int = 0,
    epochs: int = 20, num_buckets: int = 2**17,
) -> Trained:  # fmt: skip
    """Trains fastText on words and their character 1- to 4-grams, quantizes it to about 1.5 MB, and measures that.

    The same texts in the same order with the same seed give the same bytes, on one kind of processor and glibc: one thread,
    in a process of its own, for fastText 0.9 with one thread begins from whatever lies in nine tenths of its matrix, and
    that has to be zeros.

    Args:
        labelled: (group, language, text); texts of one group, say translations of one another, are held out together.
        path: of the model, written whole or not at all.
        held_out_fraction: of the groups, by a hash of seed and group.
        num_buckets: rows that character n-grams share.
    Raises: ValueError if there are fewer than two languages, or one that is held out only, or no text to hold out.
    """
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"held_out_fraction={held_out_fraction}; use more than 0 and less than 1, such as 0.2")
    if epochs < 1 or num_buckets < 1024:
        raise ValueError(f"epochs={epochs}, num_buckets={num_buckets}; use 1 and 1024 or more")
    train, held_out = [], []
    for group, language, text in labelled:
        if not language or len(language.split()) != 1:
            raise ValueError(f"language {language!r} of group {group}; use a code such as en")
        if sample := sample_of(text):
            (held_out if _share(seed, group) < held_out_fraction else train).append((language, sample))
    languages = {language for language, _ in train}
    if len(languages) < 2:
        raise ValueError(f"labelled text of {len(languages)} languages; give two or more, each with several groups")
    if not held_out:
        raise ValueError("no text was held out to measure the model with; give more groups or a larger held_out_fraction")
    if unseen := sorted({language for language, _ in held_out} - languages):
        raise ValueError(f"every text of {', '.join(unseen)} was held out; give more groups of it or a smaller held_out_fraction")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "train.txt"
        corpus.write_text("".join(f"{LABEL}{language} {text}\n" for language, text in _examples(train, seed)), encoding="utf-8")
        try:
            _train_apart(corpus, partial, seed, epochs, num_buckets)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return _measured(LanguageModel.load(path), held_out, len(train))


def _share(seed: int, group: str) -> float:
    digest = hashlib.blake2b(f"{seed}\0{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _examples(train: list[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """Each text and its parts, shuffled."""
    examples = []
    for language, text in train:
        cuts = [number * len(text) // _PARTS for number in range(_PARTS + 1)]
        parts = [text[start:stop].strip() for start, stop in zip(cuts, cuts[1:], strict=False)]
        examples += [(language, text), *((language, part) for part in parts if part)]
    names = [hashlib.blake2b(f"{seed}\0{number}".encode(), digest_size=8).digest() for number in range(len(examples))]
    return [examples[number] for number in sorted(range(len(examples)), key=names.__getitem__)]


def _train_apart(corpus: Path, model: Path, seed: int, epochs: int, num_buckets: int) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # glibc then takes every matrix from the system, which hands out zeros
        "MALLOC_PERTURB_": "0",
    }
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "llama3_jax.curation.language.train"]
    command += [str(corpus), str(model), str(seed), str(epochs), str(num_buckets)]
    run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"fastText did not train (exit {run.returncode}): {run.stderr[-2000:]}")


def _train(corpus: str, model: str, seed: str, epochs: str, num_buckets: str) -> None:
    import fasttext

    trained = fasttext.train_supervised(
        corpus, thread=1, seed=int(seed), epoch=int(epochs), lr=0.5, dim=16, minn=1, maxn=4, bucket=int(num_buckets), minCount=3,
        loss="softmax", verbose=0,
    )  # fmt: skip
    trained.quantize(dsub=2, qnorm=True, verbose=0)
    trained.save_model(model)


def _measured(model: LanguageModel, held_out: list[tuple[str, str]], trained_on: int) -> Trained:
    found, _ = model.identify([text for _, text in held_out])
    total, right, confused = collections.Counter(), collections.Counter(), collections.Counter()
    for (language, _), guess in zip(held_out, found, strict=True):
        total[language] += 1
        if language == guess:
            right[language] += 1
        else:
            confused[language, guess] += 1
    of_language = {language: right[language] / total[language] for language in sorted(total)}
    return Trained(right.total() / len(held_out), of_language, dict(sorted(confused.items())), len(held_out), trained_on)


if __name__ == "__main__":
    _train(*sys.argv[1:])

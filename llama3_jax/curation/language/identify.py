"""The language of texts by a fastText model (Joulin et al. 2016; section 3.1.1)."""

from __future__ import annotations

import functools
import mmap
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

UNKNOWN = "und"
"""ISO 639 for a text of no language in particular: nothing in it to judge by."""
LABEL = "__label__"
_WINDOWS, _WINDOW = 4, 500
"""Characters; a longer text is judged by so many windows, the first at its beginning, the last at its end."""
_LETTER = re.compile(r"[^\W\d_]")
_CODES = {"als": "gsw", "bh": "bih", "eml": "egl"}
"""Labels of lid.176, which are names of Wikipedias, that are another language's or no code of ISO 639."""


class LanguageModel:
    """A fastText classifier with a label for each language, `__label__en`. Threads may share it."""

    def __init__(self, model):
        self._model = model

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """The model of a file: lid.176.bin or .ftz, or one of `train_language_model`. A process reads a file once.

        Raises: FileNotFoundError; ValueError if the file is damaged or no model of languages, or fastText is missing.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no language model {path}; give the place of lid.176.bin (from fasttext.cc), or train one with "
                "train_language_model"
            )
        state = path.stat()
        return _loaded(str(path.resolve()), state.st_mtime_ns, state.st_size)

    @property
    def languages(self) -> list[str]:
        return sorted(_language(label) for label in self._model.get_labels())

    def identify(self, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Of each text the likeliest language and how sure the model is, in [0, 1] (float64).

        ISO 639 codes, as far as the model's labels are such; a text without a letter is `und`, with confidence 0. A text
        is judged by its `sample_of` alone, so neither its company nor the number of threads shows.
        """
        languages, confidence = [UNKNOWN] * len(texts), np.zeros(len(texts))
        samples = [sample_of(text) for text in texts]
        judged = [row for row, sample in enumerate(samples) if _LETTER.search(sample)]
        labels, sure = self._model.f.multilinePredict([samples[row] + "\n" for row in judged], 1, 0.0, "strict")
        for row, label, probability in zip(judged, labels, sure, strict=True):
            if label:
                languages[row], confidence[row] = _language(label[0]), min(1.0, float(probability[0]))
        return languages, confidence


def sample_of(text: str) -> str:
    """What is judged of a text, on one line: all of it, or four windows of 500 characters spread evenly over it."""
    if len(text) > _WINDOWS * _WINDOW:
        starts = [number * (len(text) - _WINDOW) // (_WINDOWS - 1) for number in range(_WINDOWS)]
        text = " ".join(text[start : start + _WINDOW] for start in starts)
    text = text.encode("utf-8", "ignore").decode()
    return " ".join(text.replace("\0", " ").replace(LABEL, " ").replace("</s>", " ").split())  # these mean something to fastText


def _language(label: str) -> str:
    name = label.removeprefix(LABEL)
    return _CODES.get(name, name)


@functools.lru_cache(maxsize=2)
def _loaded(path: str, time_ns: int, size: int) -> LanguageModel:
    try:
        import fasttext
    except ModuleNotFoundError as error:
        raise ValueError("language models are fastText's, which is missing; pip install 'llama3_jax[data]'") from error
    _check_whole(path)
    try:
        model = fasttext.load_model(path)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} is damaged: {error}; get it again") from error
    if odd := [label for label in model.get_labels() if not label.startswith(LABEL)]:
        raise ValueError(f"{path} has the labels {odd[:3]}; a model of languages has {LABEL}en and so on")
    return LanguageModel(model)


def _check_whole(path: str) -> None:
    """fastText itself reads past the end of a file that was cut, and makes something up or dies."""
    with open(path, "rb") as file:
        if file.read(4) != struct.pack("<i", 793712314):
            raise ValueError(f"{path} is no fastText model; give a .bin or .ftz file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        end = _end_of_model(data)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{path} is damaged: it ends early, at {len(data)} bytes; get it again") from error
    if end is None:
        raise ValueError(f"{path} is a fastText model of words and not a classifier; give one of languages, as lid.176.bin")
    if end != len(data):
        raise ValueError(f"{path} is damaged: {len(data)} bytes where its own tables come to {end}; get it again")


def _end_of_model(data: mmap.mmap) -> int | None:
    """Where the model ends, going by the sizes in it (fastText 0.9, `FastText::saveModel`); None for no classifier."""
    at = 8

    def read(kinds: str) -> tuple:
        nonlocal at
        values = struct.unpack_from("<" + kinds, data, at)
        at += struct.calcsize("<" + kinds)
        if any(value < -1 for value in values):
            raise OverflowError
        return values

    def skip(size: int) -> None:
        nonlocal at
        at += size

    def quantizer() -> None:
        dimension, _, _, _ = read("iiii")
        skip(4 * 256 * dimension)

    def matrix(quantized: bool) -> None:
        norms = quantized and read("?")[0]
        rows, columns = read("qq")
        if not quantized:
            return skip(4 * rows * columns)
        (codes,) = read("i")
        skip(codes)
        quantizer()
        if norms:
            skip(rows)
            quantizer()

    if struct.unpack_from("<12id", data, at)[7] != 3:
        return None
    skip(struct.calcsize("<12id"))
    entries, _, _, _, pruned = read("iiiqq")
    for _ in range(entries):
        closing = data.find(b"\0", at)
        if closing < 0:
            raise OverflowError
        at = closing + 1 + struct.calcsize("<qb")
    skip(8 * max(0, pruned))
    (quantized,) = read("?")
    matrix(quantized)
    (quantized_output,) = read("?")
    matrix(quantized and quantized_output)
    return at

"""Languages are told, the same way each time, by models that are whole."""

import concurrent.futures
import gzip
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fasttext", reason="language models are fastText's; pip install 'llama3_jax[data]'")

from llama3_jax.curation.language.identify import LanguageModel, sample_of  # noqa: E402
from llama3_jax.curation.language.train import train_language_model  # noqa: E402

SYLLABLES = {"xa": "ba na lo ki re", "xb": "shto zhu vri kla prz", "ja": "あいうえおかきくけこ", "zh": "的一是不了人我在有他"}


def sentences(count, seed=0):
    """Of made-up languages: (group, language, text)."""
    draw = random.Random(seed)
    for number in range(count):
        for language, units in SYLLABLES.items():
            words = ["".join(draw.choices(units.split() if " " in units else units, k=3)) for _ in range(draw.randint(4, 9))]
            yield f"s{number}", language, ("" if units.isalpha() else " ").join(words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "deep" / "made-up.ftz"
    return path, train_language_model(sentences(80), path, epochs=10, num_buckets=2000, seed=3)


def test_held_out_text_is_told(trained):
    path, result = trained
    assert result.accuracy > 0.97
    assert set(result.of_language) == set(SYLLABLES)
    assert result.held_out + result.trained_on == 320
    assert result.held_out % 4 == 0  # whole groups
    wrong = sum(result.confused.values())
    assert result.accuracy == pytest.approx(1 - wrong / result.held_out)
    assert [file.name for file in path.parent.iterdir()] == ["made-up.ftz"]


def test_the_same_seed_gives_the_same_bytes(trained, tmp_path, monkeypatch):
    path, result = trained
    again = train_language_model(sentences(80), tmp_path / "again", epochs=10, num_buckets=2000, seed=3)
    other = train_language_model(sentences(80), tmp_path / "other", epochs=10, num_buckets=2000, seed=4)
    assert again == result
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # fills all memory that is handed out
    train_language_model(sentences(80), tmp_path / "perturbed", epochs=10, num_buckets=2000, seed=3)
    assert (tmp_path / "perturbed").read_bytes() == path.read_bytes()
    assert other.held_out != result.held_out or (tmp_path / "other").read_bytes() != path.read_bytes()


def test_identifying_does_not_depend_on_company_or_threads(trained):
    model = LanguageModel.load(trained[0])
    texts = [text for _, _, text in sentences(100, seed=9)] + ["", " ", "12 34", "!?", "\ud800", "a\nb", "\0"]
    languages, confidence = model.identify(texts)
    assert languages[400:405] == ["und"] * 5
    assert confidence[400:405].tolist() == [0] * 5
    assert confidence.dtype == np.float64
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert sum(a == b for a, (_, b, _) in zip(languages, sentences(100, seed=9), strict=False)) > 380
    alone = [model.identify([text]) for text in texts]
    assert languages == [names[0] for names, _ in alone]
    assert confidence.tolist() == [sure[0] for _, sure in alone]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for names, sure in threads.map(lambda _: model.identify(texts), range(8)):
            assert names == languages
            assert np.array_equal(sure, confidence)


def test_a_model_is_read_once(trained):
    assert LanguageModel.load(trained[0]) is LanguageModel.load(str(trained[0]))
    assert LanguageModel.load(trained[0]).languages == ["ja", "xa", "xb", "zh"]


def test_a_sample_is_one_bounded_line():
    assert sample_of(" a\n\tb  ") == "a b"
    assert sample_of("a __label__xx b </s> c") == "a xx b c"
    long = "".join(chr(0x4E00 + n) for n in range(9000))
    sample = sample_of(long)
    assert sample.split(" ") == [long[start : start + 500] for start in (0, 2833, 5666, 8500)]
    assert sample_of("x" * 2000) == "x" * 2000


def test_a_missing_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no language model .*lid.176.bin"):
        LanguageModel.load(tmp_path / "lid.176.bin")


def test_a_file_that_is_no_model(tmp_path):
    for number, data in enumerate((b"", b"abc", b"\x1f\x8b a page of html")):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is no fastText model"):
            LanguageModel.load(path)


def test_a_damaged_model_is_told_at_every_cut(trained, tmp_path):
    whole = trained[0].read_bytes()
    path = tmp_path / "cut.ftz"
    for size in [*range(4, 120, 7), *range(120, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged"):
            LanguageModel.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        LanguageModel.load(path)


def test_models_of_other_things(trained, tmp_path):
    whole = trained[0].read_bytes()
    (tmp_path / "words.bin").write_bytes(whole[:36] + struct.pack("<i", 2) + whole[40:])
    with pytest.raises(ValueError, match="not a classifier"):
        LanguageModel.load(tmp_path / "words.bin")


def test_models_that_are_not_quantized_or_have_other_labels(tmp_path):
    program = "import sys, fasttext; fasttext.train_supervised(sys.argv[1], label=sys.argv[2], thread=1, dim=16, minn=1, maxn=2, "
    program += "bucket=2000, verbose=0).save_model(sys.argv[3])"
    corpus = tmp_path / "corpus.txt"
    for label in ("__label__", "__class__"):
        corpus.write_text(f"{label}als es isch guet gsi\n{label}en it was good\n" * 5)
        command = [sys.executable, "-c", program, str(corpus), label, str(tmp_path / f"{label}.bin")]
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, timeout=60)
    assert LanguageModel.load(tmp_path / "__label__.bin").languages == ["en", "gsw"]
    with pytest.raises(ValueError, match="has the labels"):
        LanguageModel.load(tmp_path / "__class__.bin")


@pytest.mark.parametrize(
    "labelled, said",
    [
        ([], "of 0 languages"),
        ([(f"g{n}", "en", "text") for n in range(9)], "of 1 languages"),
        ([("g", "en gb", "text")], "language 'en gb' of group g"),
        ([("g", "", "text")], "language '' of group g"),
        ([("a", "en", "text"), ("a", "de", "Text")], "no text was held out|of 0 languages"),
    ],
)
def test_labelled_text_that_cannot_be(labelled, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        train_language_model(labelled, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="held_out_fraction=0"):
        train_language_model(sentences(5), tmp_path / "model", held_out_fraction=0)
    with pytest.raises(ValueError, match="num_buckets=500"):
        train_language_model(sentences(5), tmp_path / "model", num_buckets=500)


@pytest.mark.slow
@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="LLAMA3_JAX_DATA names no data directory")
def test_sixteen_languages_are_told(tmp_path):
    place = Path(os.environ["LLAMA3_JAX_DATA"], "multilingual", "sentences_a.jsonl.gz")
    labelled = [(record["sent_id"], record["lang"], record["text"]) for record in map(json.loads, gzip.open(place, "rt"))]
    results = [train_language_model(labelled, tmp_path / f"{n}.ftz", seed=n // 2) for n in range(4)]
    for result in results:
        print(result.accuracy, result.confused)
        assert result.accuracy >= 0.995
        assert len(result.of_language) == 16
        assert min(result.of_language.values()) > 0.97
    digests = [hashlib.sha256((tmp_path / f"{n}.ftz").read_bytes()).hexdigest() for n in range(4)]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert (tmp_path / "0.ftz").stat().st_size < 2e6

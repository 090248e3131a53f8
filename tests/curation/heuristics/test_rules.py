"""Heuristic rules against plain Python, on documents alone and among others."""

import math
import random
import re

import numpy as np
import pytest
from crawl import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.heuristics.c4 import C4, without_bad_lines
from llama3_jax.curation.heuristics.dirty_words import DirtyWords
from llama3_jax.curation.heuristics.divergence import BUCKETS, Divergence, token_counts
from llama3_jax.curation.heuristics.gopher import GopherQuality
from llama3_jax.curation.heuristics.measure import measure
from llama3_jax.curation.heuristics.repetition import GopherRepetition, Repetition
from llama3_jax.curation.heuristics.settings import Heuristics, Rules

NONE = dict(repetition=None, divergence=None)
EVERY = Rules(
    repetition=Repetition(), divergence=Divergence(min_corpus_tokens=1), gopher_quality=GopherQuality(),
    gopher_repetition=GopherRepetition(), c4=C4(),
)  # fmt: skip
TEXTS = st.lists(
    st.text(alphabet=st.sampled_from(list("ab c\nd.#…-é日本\r\t🙂 1")), max_size=80) | st.text(max_size=30),
    min_size=1,
    max_size=6,
)


def values_of(texts, language="en", **rules):
    return measure(texts, Heuristics(default=Rules(**{**NONE, **rules})), language=language).values


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_a_document_is_judged_alike_in_any_company(texts):
    reference = token_counts(texts)
    together = measure(texts, Heuristics(default=EVERY), language="en", reference=reference)
    for row, text in enumerate(texts):
        alone = measure([text], Heuristics(default=EVERY), language="en", reference=reference)
        assert alone.reason[0] == together.reason[row] and alone.texts[0] == together.texts[row]
        for name, values in alone.values.items():
            np.testing.assert_array_equal(values[0], together.values[name][row])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["one two", "one  two!", "line 17", "line 18", "a longer line of words", "", "-"]), max_size=40))
def test_lines_said_before_count_by_their_characters(lines):
    seen, before, whole, number = set(), 0, 0, 0
    for line in lines:
        if key := tuple(re.findall(r"\w+", re.sub(r"\d", "0", line))):
            before, whole, number = before + len(line) * (key in seen), whole + len(line), number + 1
            seen.add(key)
    (value,) = values_of(["\n".join(lines)], repetition=Repetition(min_lines=10))["repetition.line_share"]
    assert value == pytest.approx(before / whole, nan_ok=True) if number >= 10 else math.isnan(value)


def test_plays_and_programs_repeat_no_lines_but_logs_do():
    play = "\n".join(f"{('SOCRATES', 'MENO')[n % 2]}.\n{prose(n, 1)}" for n in range(30))
    program = "\n".join(f"  if (x{n}) {{\n    // {prose(n + 30, 1)}\n    return;\n  }}" for n in range(30))
    log = "\n".join(f"2024-01-01 12:00:{n:02} ERROR the host does not answer, trying again" for n in range(60))
    reasons = measure([play, program, log], Heuristics(default=Rules(divergence=None)), language="en").reason
    assert reasons[:2] == [None, None] and reasons[2].startswith("repetition.")


def plain_words(text):
    return re.findall(r"[^\W_]+(?:_[^\W_]+)*|_+", text)


ASCII = st.lists(st.sampled_from("one two three four.\nfive # six ... - seven".split(" ")), max_size=60).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(ASCII)
def test_gopher_rules_against_plain_python(text):
    words = re.findall(r"\w+", text)
    quality = values_of([text], gopher_quality=GopherQuality())
    assert quality["gopher_quality.words"][0] == len(words)
    if words:
        assert quality["gopher_quality.mean_word_length"][0] == pytest.approx(sum(map(len, words)) / len(words))
        assert quality["gopher_quality.hashes_per_word"][0] == pytest.approx(text.count("#") / len(words))
    lines = [line for line in text.split("\n") if line.strip()]
    if lines:
        bullets = sum(line.lstrip()[0] == "-" for line in lines)
        assert quality["gopher_quality.bullet_lines"][0] == pytest.approx(bullets / len(lines))
    repetition = values_of([text], gopher_repetition=GopherRepetition())
    size = sum(map(len, words))
    for n in (2, 3, 4):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        most = max((grams.count(gram) for gram in grams), default=0)
        top = max((most * len("".join(gram)) for gram in grams if grams.count(gram) == most), default=0) if most > 1 else 0
        if size:
            assert repetition[f"gopher_repetition.top_{n}_gram"][0] == pytest.approx(top / size)
    for n in (5, 8, 10):
        seen, covered = set(), set()
        for i in range(len(words) - n + 1):
            gram = tuple(words[i : i + n])
            if gram in seen:
                covered.update(range(i, i + n))
            seen.add(gram)
        if size:
            share = sum(len(words[i]) for i in covered) / size
            assert repetition[f"gopher_repetition.duplicate_{n}_grams"][0] == pytest.approx(share)


def test_logs_are_found_and_prose_is_not():
    log = "\n".join(f"ERROR 2023-01-01 12:{n // 60:02}:{n % 60:02} refused by host {n}, trying again later" for n in range(50))
    found = measure([log, prose(1, 60)], Heuristics(), language="en")
    assert found.reason == ["repetition.coverage", None]
    assert found.value[0] > 0.9


def test_divergence_is_the_formula_and_singles_out_what_is_unusual():
    rng = random.Random(0)
    texts = [prose(n, 30) for n in range(40)]
    mash = " ".join("".join(rng.choice("qwrtzpsdfg") for _ in range(7)) for _ in range(150))
    reference = token_counts(texts)
    rules = Heuristics(default=Rules(repetition=None, divergence=Divergence(min_corpus_tokens=100)))
    found = measure([texts[0], texts[0][:200], mash], rules, language="en", reference=reference)
    assert found.reason == [None, None, "divergence.excess"]
    counts = token_counts([texts[0]]).astype(float)
    total, own = float(reference.sum()), counts.sum()
    p = counts / own
    q = (reference - counts + 1) / (total - own + BUCKETS)
    divergence = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True) if a > 0)
    assert found.values["divergence.nats"][0] == pytest.approx(divergence, rel=1e-9)


def test_c4_takes_out_lines():
    text = "Menu\nThis is a whole sentence.\nPlease enable javascript now.\nToo short.\nAnother good one here!"
    assert without_bad_lines([text], C4()) == ["This is a whole sentence.\nAnother good one here!"]
    assert without_bad_lines([text], C4(remove_lines=False)) == [text]
    rules = Heuristics(default=Rules(**NONE, c4=C4()))
    reasons = measure(["A b c. " * 6 + "{}.", "Lorem ipsum a b. " * 6, "One b c."], rules, language="en").reason
    assert reasons == ["c4.curly_brackets", "c4.lorem_ipsum", "c4.sentences"]


def test_dirty_words_by_list_and_language(tmp_path):
    path = tmp_path / "en.txt"
    path.write_text("damn\nbloody hell\n")
    rules = Rules(**NONE, dirty_words=DirtyWords(lists={"en": str(path)}, max_share=0.1))
    texts = ["Damn it, bloody hell and DAMN", "damnation of bloody geese", "nice"]
    found = measure(texts, Heuristics(default=rules), language="en")
    assert found.values["dirty_words.count"].tolist() == [3, 0, 0]
    assert found.reason == ["dirty_words.share", None, None]
    assert measure(texts, Heuristics(default=rules), language="de").reason == [None] * 3


def test_a_language_can_have_its_own_rules():
    rules = Heuristics(default=Rules(**NONE, gopher_quality=GopherQuality()), languages={"ja": Rules(**NONE)})
    assert measure(["short"], rules, language="en").reason == ["gopher_quality.words"]
    assert measure(["短い"], rules, language="ja").reason == [None]

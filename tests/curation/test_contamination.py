"""Documents that share n-grams with evaluation sets are found, and others are not."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.contamination import Contamination, EvaluationIndex, overlap

TIGHT = Contamination(long_ngram=5, short_ngram=3, max_texts=None)
WORD = st.sampled_from(["a", "b", "C,", "d!", "é", "e\u0301", "0", "1", "2", "漢", "字かな", "ไท", "😀", "_", "\n", "𝒳"])
TEXTS = st.lists(st.lists(WORD, max_size=25).map(" ".join), max_size=5)


def plain_words(text):
    """(word, its size in quarters), one character at a time."""
    found = []
    for run in re.findall(r"[^ \n]+", text):
        pieces, inside = [], False
        for character in run:
            category, point = unicodedata.category(character), ord(character)
            if category[0] == "M":
                continue
            if category[0] not in "LN" and point < 0x1F000:
                inside = character == "_" and inside
                continue
            plain = unicodedata.normalize("NFD", character)[0].lower() if point < 0x1F000 else character
            thai, han = 0x0E00 <= point < 0x0F00, 0x3040 <= point < 0xA000
            if thai or han or point >= 0x1F000:
                pieces.append((plain, 1 if thai else 2 if han else 4))
                inside = False
            elif inside:
                pieces[-1] = (pieces[-1][0] + plain, 4)
            else:
                pieces.append((plain, 4))
                inside = True
        found += pieces
    return found


def plain_ngrams(words, length):
    """(words, first, behind the last) of every shortest piece that has so many words."""
    for first in range(len(words)):
        size, end = 0, first
        while size < 4 * length and end < len(words):
            size += words[end][1]
            end += 1
        if size >= 4 * length:
            yield tuple(word for word, _ in words[first:end]), first, end


def plain_index(sets, settings):
    def telling(key):
        return 2 * sum(unicodedata.category(word[0]) != "Nd" for word in key) >= len(key)

    listed = {length: set() for length in range(settings.short_ngram, settings.long_ngram + 1)}
    for text in (text for texts in sets.values() for text in texts):
        words = plain_words(text)
        whole = sum(size for _, size in words) // 4
        for length, keys in listed.items():
            pieces = list(plain_ngrams(words, length))
            if length in (settings.short_ngram, settings.long_ngram):
                keys.update(key for key, *_ in pieces if telling(key))
            elif whole == length and telling(pieces[0][0]):
                keys.add(pieces[0][0])
    return listed


def plain_overlap(text, listed, settings):
    words = plain_words(text)
    matches, any_length, short = 0, set(), set()
    for length, keys in listed.items():
        for key, first, end in plain_ngrams(words, length):
            if key in keys:
                matches += length > settings.short_ngram
                any_length.update(range(first, end))
                if length == settings.short_ngram:
                    short.update(range(first, end))
    longest = best = 0
    for number, (_, size) in enumerate(words):
        longest = longest + size if number in any_length else 0
        best = max(best, longest)
    share = sum(words[number][1] for number in short) / max(1, sum(size for _, size in words))
    return matches, share, best // 4


@given(TEXTS, TEXTS)
def test_overlap_is_that_of_a_plain_loop(texts, evaluation):
    sets = {"one": evaluation[::2], "two": evaluation[1::2]}
    found = overlap(texts, EvaluationIndex.of(sets, TIGHT), TIGHT)
    listed = plain_index(sets, TIGHT)
    for row, text in enumerate(texts):
        matches, share, longest = plain_overlap(text, listed, TIGHT)
        assert found.long_matches[row] == matches
        assert found.short_share[row] == pytest.approx(share)
        assert found.longest[row] == longest
        assert bool(found.sets[row]) == (longest > 0)


@given(TEXTS, TEXTS, st.integers(0, 5))
def test_overlap_does_not_depend_on_the_batch(texts, evaluation, cut):
    index = EvaluationIndex.of({"set": evaluation}, TIGHT)
    whole, parts = overlap(texts, index, TIGHT), [overlap(texts[:cut], index, TIGHT), overlap(texts[cut:], index, TIGHT)]
    for name in ("long_matches", "short_share", "longest"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    assert whole.sets == parts[0].sets + parts[1].sets


QUESTION = "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends."
RULES = Contamination()


def judged(text, sets, rules=RULES):
    found = overlap([text, "something else"], EvaluationIndex.of(sets, rules), rules)
    reasons, values = found.reasons(rules)
    assert reasons[1] is None
    assert np.isnan(values[1])
    return reasons[0], found


def test_a_document_with_a_question_is_left_out():
    text = f"A page of many words. {'More of them. ' * 100} JANET'S DUCKS lay 16 eggs, per day; {QUESTION[35:]}"
    reason, found = judged(text, {"gsm8k": [QUESTION], "other": ["nothing to see"]})
    assert reason == "contamination.long_ngrams"
    assert found.sets == ["gsm8k", ""]
    assert found.longest.tolist() == [21, 0]
    assert found.long_matches.tolist() == [21 - 12, 0]


def test_other_numbers_make_another_question():
    assert judged(QUESTION.replace("16", "17"), {"gsm8k": [QUESTION[:60]]})[0] is None


def test_eight_words_in_a_row_say_little_and_many_of_them_much():
    text = "lay 16 eggs per day. She eats three for dinner. " + "And this and that they said. " * 5
    reason, found = judged(text, {"gsm8k": [QUESTION]})
    assert reason is None
    assert found.longest[0] == 9
    assert 0 < found.short_share[0] < 0.5
    assert judged("Lay 16 eggs per day. She eats three for dinner!", {"gsm8k": [QUESTION]})[0] == "contamination.short_ngrams"


@pytest.mark.parametrize("words, reason", [(8, None), (9, "contamination.long_ngrams"), (12, "contamination.long_ngrams")])
def test_a_short_evaluation_text_counts_as_a_whole(words, reason):
    text = " ".join(f"w{n}" for n in range(words))
    found = judged(f"{'before ' * 50}{text}{' after' * 50}", {"set": [text]})
    assert found[0] == reason
    assert judged(f"{'before ' * 50}{text[:-1]}x{' after' * 50}", {"set": [text]})[0] is None


def test_what_many_questions_share_is_no_contamination():
    form = "Answer the following question with one of the four choices A B C or D and nothing more."
    sets = {"set": [f"{form} Question {n}" for n in range(11)] + [QUESTION] * 20}
    assert judged(form, sets)[0] is None
    assert judged(form, {"set": sets["set"][:10]})[0] == "contamination.long_ngrams"
    assert judged(QUESTION, sets)[0] == "contamination.long_ngrams"


def test_rows_of_numbers_are_no_contamination():
    numbers = ", ".join(map(str, range(40)))
    assert judged(numbers, {"humaneval": [f"xs = [{numbers}]"]})[0] is None
    assert judged("a 1 " * 7, {"humaneval": ["a 1 " * 7]})[0] == "contamination.long_ngrams"


def test_unspaced_scripts_need_more_characters():
    chinese = "机器学习是人工智能的一个重要分支研究计算机怎样模拟或实现人类的学习行为"
    assert judged(f"我们说{chinese[:26]}吧", {"xquad": [chinese]})[0] == "contamination.long_ngrams"
    assert judged(f"我们说{chinese[:25]}吧", {"xquad": [chinese]})[1].long_matches[0] == 0


def test_no_documents_and_no_evaluations():
    index = EvaluationIndex.of({}, RULES)
    assert overlap(["", QUESTION], index, RULES).sets == ["", ""]
    assert overlap([], EvaluationIndex.of({"set": [QUESTION, ""]}, RULES), RULES).sets == []


def test_an_index_is_its_arrays():
    index = EvaluationIndex.of({"b": [QUESTION], "a": ["x"]}, RULES)
    again = EvaluationIndex(index.keys, index.sets, index.names)
    assert all((np.diff(keys.astype(object)) > 0).all() for keys in again.keys.values())
    assert overlap([QUESTION], again, RULES).sets == ["b"]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"short_ngram": 14}, "use 1 <= short <= long"),
        ({"max_long_matches": -1}, "max_long_matches=-1"),
        ({"max_short_share": 1.5}, "is a share"),
        ({"max_texts": 0}, "max_texts=0"),
    ],
)
def test_settings_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        Contamination(**given)

"""Any text comes back byte for byte, whole or in batches; a damaged rank file is refused with its line."""

import base64
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer import bpe
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.train_bpe import save_ranks, train_bpe

TEXT = "The herd of llamas isn't 1234 strong; 'TWAS the herd of the llamas.\n\n  def herd(n):\n\treturn n + 10\n"
TOKENS = train_bpe([TEXT * 3], vocab_size=560)
TOKENIZER = Tokenizer(TOKENS)
TEXTS = st.text(alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("the \n'll12 hé漢🦙")))


def metas_split(text, limit):
    """Meta's `_split_whitespaces_or_nonwhitespaces`, restated."""
    run, is_space, start = 0, bool(text) and text[0].isspace(), 0
    for i, character in enumerate(text):
        if character.isspace() != is_space:
            run, is_space = 1, not is_space
        elif (run := run + 1) > limit:
            yield text[start:i]
            start, run = i, 1
    yield text[start:]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("")
@example(" \n\r\n \t x\u2028\u00a0 y")
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode_bytes(ids) == text.encode()
    assert TOKENIZER.decode(ids) == text
    assert sum(TOKENIZER.token_bytes[ids]) == len(text.encode())


@settings(max_examples=50, deadline=None)
@example(["a lone \ud800 surrogate", "a pair \ud83d\ude00"], True, True)
@given(st.lists(TEXTS, max_size=6), st.booleans(), st.booleans())
def test_a_batch_agrees_with_single_texts(texts, bos, eos):
    expected = [TOKENIZER.encode(text, bos=bos, eos=eos) for text in texts]
    assert [ids.tolist() for ids in TOKENIZER.encode_batch(texts, bos=bos, eos=eos, num_threads=2)] == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(" \nab"), st.integers(1, 12)), max_size=8))
def test_long_text_is_cut_where_meta_cuts_it(runs):
    text = "".join(character * length for character, length in runs)
    stretched = "".join(character * bpe._MAX_RUN_CHARS for character in text[:3]) + text
    for whole in (text, stretched):
        assert list(bpe._pieces(whole)) == ([*metas_split(whole, bpe._MAX_RUN_CHARS)] if whole else [])


@pytest.mark.parametrize("text", ["a" * 450_001, " " * 60_000 + "x", "the herd " * 50_000])
def test_long_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_bos_and_eos_stand_at_the_ends():
    ids = TOKENIZER.encode("herd", bos=True, eos=True)
    assert ids == [TOKENIZER.bos_id, *TOKENIZER.encode("herd"), TOKENIZER.eos_id]
    assert TOKENIZER.decode(ids) == "<|begin_of_text|>herd<|end_of_text|>"
    assert TOKENIZER.decode_bytes(ids) == b"herd"
    assert TOKENIZER.token_bytes.dtype == np.int32 and TOKENIZER.token_bytes.shape == (TOKENIZER.vocab_size,)
    assert TOKENIZER.token_bytes[TOKENIZER.bos_id] == 0


def test_digits_group_by_three_and_broken_utf8_is_shown():
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), b"12", b"123", b"1234"])
    assert tokenizer.encode("1234") == [257, ord("4")]
    assert tokenizer.decode("é".encode()[:1]) == "\ufffd"


def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path):
    save_ranks(tmp_path / "tokenizer.model", TOKENS)
    loaded = Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.encode(TEXT) == TOKENIZER.encode(TEXT) == pickle.loads(pickle.dumps(loaded)).encode(TEXT)
    assert Tokenizer(TOKENS[:-1]).fingerprint != TOKENIZER.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


@pytest.mark.parametrize("ids", [[-1], [10**6]])
def test_ids_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(ValueError, match=str(ids[0])):
        TOKENIZER.decode(ids)
    with pytest.raises(ValueError, match=str(ids[0])):
        TOKENIZER.decode_bytes(ids)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:99] + [b"no-base64! 99"] + lines[100:],
        lambda lines: lines[:99] + [lines[99].split()[0]] + lines[100:],
        lambda lines: lines[:99] + lines[100:],
        lambda lines: lines[:99] + [lines[98].split()[0] + b" 99"] + lines[100:],
        lambda lines: lines[:99] + [b""] + lines[99:],
    ],
    ids=["not base64", "no rank", "gap", "repeated token", "blank line"],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, damage):
    path = tmp_path / "tokenizer.model"
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(TOKENS)]
    path.write_bytes(b"\n".join(damage(lines)))
    with pytest.raises(ValueError, match=r"tokenizer\.model, line 100"):
        Tokenizer.load(path)


def test_missing_bytes_and_missing_files_are_refused(tmp_path):
    save_ranks(tmp_path / "cut.model", TOKENS[:200])
    with pytest.raises(ValueError, match=r"cut\.model.*0xc8"):
        Tokenizer.load(tmp_path / "cut.model")
    with pytest.raises(FileNotFoundError, match=r"absent\.model"):
        Tokenizer.load(tmp_path / "absent.model")

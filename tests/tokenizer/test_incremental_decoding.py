"""Text as it is said: whole characters only, and in the end what decoding everything gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.incremental import IncrementalDecoder

BYTES = [bytes([byte]) for byte in range(256)]
TOKENIZER = Tokenizer([*BYTES, "é".encode(), "漢".encode()[:2], b"\xa2 a", "🦙".encode()[1:]])


def stream(ids):
    decoder = IncrementalDecoder(TOKENIZER)
    return [*map(decoder.add, ids), decoder.end()]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40))
def test_any_ids_give_what_decoding_them_together_gives(ids):
    assert "".join(stream(ids)) == TOKENIZER.decode(ids)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20))
def test_no_half_character_of_any_text_is_shown(text):
    parts = stream(TOKENIZER.encode(text))
    shown = ""
    for part in parts:
        shown += part
        assert text.startswith(shown)
    assert shown == text and parts[-1] == ""


def test_a_character_comes_with_its_last_byte():
    assert stream("🦙".encode()) == ["", "", "", "🦙", ""]
    assert stream([0xF0, TOKENIZER.special_id("<|eot_id|>")]) == ["", "\ufffd<|eot_id|>", ""]
    decoder = IncrementalDecoder(TOKENIZER)
    assert decoder.add(0xE6) == "" and decoder.end() == "\ufffd" and decoder.add(ord("a")) == "a"
    with pytest.raises(ValueError, match="outside this tokenizer's"):
        decoder.add(TOKENIZER.vocab_size)

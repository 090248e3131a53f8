"""Control tokens have Meta's ids, and no text can produce one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.special_tokens import SPECIAL_TOKENS, Naming

BYTES = [bytes([byte]) for byte in range(256)]
TOKENIZER = Tokenizer([*BYTES, b"<|", b"|>", b"_id", b"eo", b"eot", b"eot_id"])
NUM_RANKS = len(TOKENIZER.tokens)


def test_llama_3_1_ids():
    published = {
        0: "<|begin_of_text|>",
        1: "<|end_of_text|>",
        2: "<|reserved_special_token_0|>",
        3: "<|reserved_special_token_1|>",
        4: "<|finetune_right_pad_id|>",
        5: "<|step_id|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
        11: "<|image|>",
        12: "<|reserved_special_token_2|>",
        255: "<|reserved_special_token_245|>",
    }
    assert len(set(SPECIAL_TOKENS)) == 256
    assert {offset: SPECIAL_TOKENS[offset] for offset in published} == published
    assert TOKENIZER.bos_id == NUM_RANKS and TOKENIZER.eos_id == NUM_RANKS + 1
    assert TOKENIZER.stop_ids == {NUM_RANKS + 1, NUM_RANKS + 8, NUM_RANKS + 9}
    assert TOKENIZER.vocab_size == NUM_RANKS + 256


@pytest.mark.parametrize(
    "naming, published",
    [
        (Naming.LLAMA_3, {4: 2, 5: 3, 8: 4, 10: 5, 11: 6, 12: 7, 255: 250}),
        (Naming.HUGGING_FACE, {2: 0, 3: 1, 5: 2, 11: 3, 12: 4, 255: 247}),
    ],
)
def test_other_releases_name_other_ids(naming, published):
    """Their reserved tokens by position and number."""
    assert len(set(naming.names)) == 256
    for position, number in published.items():
        assert TOKENIZER.special_id(f"<|reserved_special_token_{number}|>", naming) == NUM_RANKS + position
    for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"):
        assert TOKENIZER.special_id(name, naming) == TOKENIZER.special_id(name), "these never moved"
    with pytest.raises(KeyError):
        TOKENIZER.special_id("<|step_id|>", naming)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_name_in_text_is_text(name):
    ids = TOKENIZER.encode(name)
    assert max(ids) < NUM_RANKS and TOKENIZER.decode(ids) == name
    assert TOKENIZER.decode([TOKENIZER.special_id(name)]) == name
    assert TOKENIZER.decode_bytes([TOKENIZER.special_id(name)]) == b""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=8)), max_size=8).map("".join))
def test_names_inside_any_text_are_text(text):
    ids = TOKENIZER.encode(text)
    assert all(token_id < NUM_RANKS for token_id in ids)
    assert TOKENIZER.decode_bytes(ids) == text.encode()
    (batched,) = TOKENIZER.encode_batch([text])
    assert batched.dtype == "uint32" and batched.tolist() == ids

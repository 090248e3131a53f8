"""Training gives exactly the vocabulary asked for, the same each time, or says what the text allows."""

import random

import pytest

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.train_bpe import train_bpe


def words(num_words: int) -> list[str]:
    source = random.Random(0)
    return [" ".join("".join(source.choices("abcde", k=source.randint(1, 7))) for _ in range(20)) for _ in range(num_words // 20)]


def test_first_merge_is_the_most_frequent_pair():
    tokens = train_bpe(["xy xy xyz ab"], vocab_size=512 + 1)
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert tokens[256:] == [b"xy"]


def test_size_and_order_are_a_function_of_the_text():
    texts = words(20_000)
    tokens = train_bpe(texts, vocab_size=1500)
    assert tokens == train_bpe(iter(texts), vocab_size=1500)
    assert len(tokens) == len(set(tokens)) == 1500 - 256
    assert Tokenizer(tokens).vocab_size == 1500
    assert train_bpe(texts, vocab_size=900) == tokens[: 900 - 256]


def test_training_compresses():
    texts = words(20_000)
    assert len(Tokenizer(train_bpe(texts, vocab_size=1500)).encode(texts[0])) < 0.5 * len(texts[0])


def test_no_token_crosses_the_split_pattern():
    tokens = train_bpe(["the cat 1234567 sat\n\n" * 50], vocab_size=512 + 10)
    assert all(b" " not in token[1:] for token in tokens[256:])
    assert not any(token.isdigit() and len(token) > 3 for token in tokens)


@pytest.mark.parametrize("texts", [[], [""], ["ab ab"]])
def test_too_little_text_says_what_it_allows(texts):
    with pytest.raises(ValueError, match="vocab_size=1000") as error:
        train_bpe(texts, vocab_size=1000)
    allowed = int(str(error.value).split("vocab_size=")[-1].split()[0])
    assert len(train_bpe(texts, vocab_size=allowed)) == allowed - 256


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="511"):
        train_bpe(["text"], vocab_size=511)

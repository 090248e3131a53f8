"""The ids of Meta's own tokenizer, and of Hugging Face's fast one made from the same ranks, for strings in many scripts."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from llama3_jax.tokenizer.bpe import SPLIT_PATTERN, Tokenizer

pytestmark = [pytest.mark.oracle]
llama3 = pytest.importorskip("llama_models.llama3.tokenizer", reason="Meta's code is not installed")
RANKS = Path(llama3.__file__).with_name("tokenizer.model")
SCRIPTS = (
    (0x20, 0x7E), (0x9, 0xD), (0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xEFF), (0x1E00, 0x1FFF),
    (0x2000, 0x206F), (0x2190, 0x23FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFE00, 0xFE0F),
    (0x1F300, 0x1FAFF), (0x10000, 0x10FFF),
)  # fmt: skip
JOINTS = (" ", "  ", "\n", "\n\n", " \n", "\t", "'s", "'LL", "123", "1234567", "<|eot_id|>", "...", "\r\n", "e\u0301", "\u200d")


@pytest.fixture(scope="module")
def ours():
    return Tokenizer.load(RANKS)


@pytest.fixture(scope="module")
def metas():
    return llama3.Tokenizer(RANKS)


@pytest.fixture(scope="module")
def hugging_faces():
    converter = pytest.importorskip("transformers.convert_slow_tokenizer")
    made = converter.TikTokenConverter(str(RANKS), pattern=SPLIT_PATTERN, extra_special_tokens=[]).converted()
    made.model.ignore_merges = True
    return made


def strings(seed, number):
    """Random ones, of one or several scripts, with what the split pattern cares about in between."""
    rng = random.Random(seed)
    for _ in range(number):
        scripts, text = rng.sample(SCRIPTS, rng.randint(1, 3)), []
        for _ in range(rng.randint(1, 12)):
            low, high = rng.choice(scripts)
            text += [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5))]
            if rng.random() < 0.5:
                text.append(rng.choice(JOINTS))
        yield "".join(text)


def real(number):
    """Stretches of real texts, cut anywhere."""
    if "LLAMA3_JAX_DATA" not in os.environ:
        return
    rng, texts = random.Random(1), []
    for name in ("multilingual", "general", "code"):
        with gzip.open(Path(os.environ["LLAMA3_JAX_DATA"]) / f"pretrain_mix/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    for _ in range(number):
        text = rng.choice(texts)
        start = rng.randrange(len(text))
        yield text[start : start + rng.randint(1, 200)]


def agree(ours, metas, hugging_faces, texts):
    seen = 0
    for text in texts:
        ids = ours.encode(text)
        assert ids == metas.encode(text, bos=False, eos=False), repr(text)
        assert ids == hugging_faces.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode_bytes(ids) == text.encode()
        seen += 1
    return seen


def test_twenty_thousand_strings(ours, metas, hugging_faces):
    assert agree(ours, metas, hugging_faces, [*strings(0, 14_000), *real(6_000)]) >= 14_000


def test_a_header_and_a_stripped_content_split_where_they_meet(ours):
    """Hugging Face encodes the line breaks after a header with the content, we apart: the same ids, once it is stripped."""
    for text in map(str.strip, [*strings(3, 5000), *real(1000), *JOINTS]):
        assert ours.encode("\n\n" + text) == ours.encode("\n\n") + ours.encode(text), repr(text)


@pytest.mark.slow
def test_a_million_strings(ours, metas, hugging_faces):
    assert agree(ours, metas, hugging_faces, (text for part in (strings(2, 700_000), real(300_000)) for text in part)) >= 700_000


@pytest.mark.slow
@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="needs LLAMA3_JAX_DATA")
def test_english_has_the_papers_compression(ours):
    """3.94 characters a token "on a sample of English data" (section 3.2): on the English of `pretrain_mix`, all of it.

    Prose alone is compressed further (novels 4.3 to 4.5, textbooks 4.9), formulas and code less.
    """
    characters = tokens = 0
    for name in ("general", "math", "code"):
        with gzip.open(Path(os.environ["LLAMA3_JAX_DATA"]) / f"pretrain_mix/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts = [each["text"] for each in map(json.loads, lines) if each["lang"] in ("en", "code")]
        counts = sum(map(len, texts)), sum(map(len, ours.encode_batch(texts)))
        print(f"{name}: {counts[0] / counts[1]:.3f} characters a token")
        characters, tokens = characters + counts[0], tokens + counts[1]
    print(f"together: {characters / tokens:.3f}")
    assert abs(characters / tokens / 3.94 - 1) < 0.05

"""`llama3 tokenizer`: from texts to a rank file, to a longer one, to a table and a plot of what they compress."""

import json
import re

import pytest

from llama3_jax.commands.main import main
from llama3_jax.commands.tokenizer import compression
from llama3_jax.tokenizer.bpe import Tokenizer


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "english.txt").write_text("The herd of llamas sleeps, and the herders sleep near the llamas.\n" * 40)
    (tmp_path / "russian.txt").write_text("Стадо лам спит, и пастухи спят рядом с ламами, а ламы спят.\n" * 40, encoding="utf-8")
    return tmp_path


def test_train_extend_compare(place, capsys):
    assert main(["tokenizer", "train", "--out", "en.model", "--vocab-size", "540", "--texts", "english.txt"]) == 0
    told = ["--base", "en.model", "--out", "all.model", "--add", "24", "--texts", "russian.txt", "--keep", "english.txt"]
    assert main(["tokenizer", "extend", *told]) == 0
    english, longer = Tokenizer.load("en.model"), Tokenizer.load("all.model")
    assert longer.tokens[: len(english.tokens)] == english.tokens and longer.vocab_size == english.vocab_size + 24
    text = (place / "english.txt").read_text()
    assert longer.encode(text) == english.encode(text)
    assert re.search(r"all [\d,]+ pieces of the kept texts, .*, have the ids they had", capsys.readouterr().out)
    compare = ["--ranks", "en.model", "all.model", "--texts", "english.txt", "russian.txt", "--plot", "rates.png"]
    assert main(["tokenizer", "compare", *compare]) == 0
    report = capsys.readouterr().out

    def rates(name):
        return [float(rate) for rate in re.findall(rf"^{name}.txt +([\d.]+)", report, re.M)]

    english, russian = rates("english"), rates("russian")
    assert english[0] == english[1] and russian[1] > 1.5 * russian[0]
    assert (place / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_languages_of_a_source_stand_apart(place, capsys):
    """As its records name them, and all together first; one language alone is not told twice."""
    texts = {"en": "The herd sleeps.", "ru": "Стадо спит."}
    lines = [json.dumps({"text": text, "lang": language}) for language, text in texts.items()]
    (place / "both.jsonl").write_text("\n".join(lines * 3))
    (place / "one.jsonl").write_text(lines[0])
    assert main(["tokenizer", "train", "--out", "en.model", "--vocab-size", "540", "--texts", "english.txt"]) == 0
    found = compression(["both.jsonl", "one.jsonl"], ["en.model"])
    assert [each.name for each in found] == ["both.jsonl", "both.jsonl, en", "both.jsonl, ru", "one.jsonl, en"]
    together, english, russian, alone = found
    assert together.characters == english.characters + russian.characters == 3 * sum(map(len, texts.values()))
    assert together.tokens == english.tokens + russian.tokens and english.words == 9 and english.tokens == 3 * alone.tokens
    assert russian.num_bytes == 3 * len(texts["ru"].encode())


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["train", "--texts", "english.txt"], "train needs --out and needs --vocab-size"),
        (["train", "--texts", "english.txt", "--out", "x", "--vocab-size", "600", "--add", "3"], "has no --add"),
        (["train", "--texts", "nowhere.txt", "--out", "x", "--vocab-size", "600"], "no file or directory nowhere.txt"),
        (["train", "--texts", "english.txt", "--out", "english.txt", "--vocab-size", "600"], "english.txt is there already"),
        (["compare", "--texts", "english.txt", "--ranks", "english.txt"], "is not `base64 rank`"),
    ],
)
def test_bad_input(place, arguments, why, capsys):
    assert main(["tokenizer", *arguments]) == 1
    assert why in capsys.readouterr().err

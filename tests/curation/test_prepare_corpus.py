"""A corpus is prepared once, the same each time, with held-out documents that training never sees."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama3_jax.curation.corpus import Corpus, Files, PythonCode, PythonDocs, open_corpus, prepare_corpus
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.token_shard import TokenShard
from llama3_jax.tokenizer.train_bpe import save_ranks

BYTES = [bytes([byte]) for byte in range(256)]


def write_source(path: Path, name: str, num_documents: int = 200) -> Files:
    """Documents `number name words...`, ids `d0`, `d1`, ... in every source."""
    source = random.Random(name)
    lines = []
    for number in range(num_documents):
        words = ["".join(source.choices("abcdefg", k=source.randint(1, 8))) for _ in range(40)]
        lines.append(json.dumps({"id": f"d{number}", "text": f"{number} {name} {' '.join(words)}"}))
    (path / f"{name}.jsonl").write_text("\n".join(lines))
    return Files(paths=(str(path / f"{name}.jsonl"),))


@pytest.fixture
def cfg(tmp_path):
    return Corpus(
        sources={"web": write_source(tmp_path, "web"), "math": write_source(tmp_path, "math")},
        max_bytes_per_source=None,
        held_out_fraction=0.1,
        shard_tokens=4000,
    )


def prepare(cfg, directory, vocab_size=700):
    return prepare_corpus(cfg, directory, vocab_size=vocab_size, report=lambda line: None)


def decoded(prepared, paths) -> list[str]:
    tokenizer = Tokenizer.load(prepared.tokenizer_path)
    shards = [TokenShard(path, tokenizer_fingerprint=tokenizer.fingerprint) for path in paths]
    return [tokenizer.decode_bytes(shard[i]).decode() for shard in shards for i in range(len(shard))]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def modified(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}


def numbers(texts: list[str]) -> set[str]:
    return {text.split()[0] for text in texts}


def test_every_document_arrives_once_on_one_side(cfg, tmp_path):
    prepared = prepare(cfg, tmp_path / "run")
    for source, files in cfg.sources.items():
        written = [json.loads(line)["text"] for line in Path(files.paths[0]).read_text().splitlines()]
        train = decoded(prepared, prepared.train[source])
        held_out = decoded(prepared, prepared.held_out[source])
        assert sorted(train + held_out) == sorted(written)
        assert 5 <= len(held_out) <= 40
        assert train != [text for text in written if text in train]  # shuffled


def test_an_id_is_on_the_same_side_in_every_source(cfg, tmp_path):
    prepared = prepare(cfg, tmp_path / "run")
    web, math = (numbers(decoded(prepared, prepared.held_out[source])) for source in ("web", "math"))
    assert web == math


def test_documents_stand_between_bos_and_eos_in_shards_of_the_size_asked(cfg, tmp_path):
    prepared = prepare(cfg, tmp_path / "run")
    tokenizer = Tokenizer.load(prepared.tokenizer_path)
    shards = [TokenShard(path) for path in prepared.train["web"]]
    assert len(shards) > 1
    for shard in shards[:-1]:
        assert cfg.shard_tokens <= shard.header.num_tokens < cfg.shard_tokens + max(shard.lengths)
    for ids in (shard[i] for shard in shards for i in range(len(shard))):
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
        assert np.all(ids[1:-1] < len(tokenizer.tokens))


def test_counts_are_those_of_the_shards(cfg, tmp_path):
    prepared = prepare(cfg, tmp_path / "run")
    for source in cfg.sources:
        for split, paths in (("train", prepared.train[source]), ("held_out", prepared.held_out[source])):
            counts, texts = prepared.counts[source][split], decoded(prepared, paths)
            assert counts.documents == len(texts)
            assert counts.bytes == sum(len(text.encode()) for text in texts)
            assert counts.tokens == sum(TokenShard(path).header.num_tokens for path in paths)


def test_the_same_config_gives_the_same_bytes(cfg, tmp_path):
    prepare(cfg, tmp_path / "one")
    prepare(cfg, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_tokenizer_never_sees_held_out_text(cfg, tmp_path):
    first = prepare(cfg, tmp_path / "one")
    held_out = numbers(decoded(first, first.held_out["web"]))
    for files in cfg.sources.values():
        path = Path(files.paths[0])
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            if record["text"].split()[0] in held_out:
                record["text"] = "zzzz" * 1000
        path.write_text("\n".join(map(json.dumps, records)))
    second = prepare(cfg, tmp_path / "two")
    assert second.tokenizer_path.read_bytes() == first.tokenizer_path.read_bytes()


def test_a_second_run_redoes_nothing(cfg, tmp_path):
    lines = []
    first = prepare_corpus(cfg, tmp_path / "run", vocab_size=700, report=lines.append)
    before = modified(tmp_path / "run")
    assert len(lines) > 4
    lines.clear()
    assert prepare_corpus(cfg, tmp_path / "run", vocab_size=700, report=lines.append) == first == open_corpus(tmp_path / "run")
    assert modified(tmp_path / "run") == before and len(lines) == 1


def test_a_source_is_added_and_the_others_stay(cfg, tmp_path):
    before = prepare(cfg, tmp_path / "corpus")
    untouched = modified(tmp_path / "corpus")
    books = write_source(tmp_path, "books")
    after = prepare(replace(cfg, sources={"books": books, **cfg.sources}), tmp_path / "corpus")
    assert after.train.keys() == {"web", "math", "books"}
    now = modified(tmp_path / "corpus")
    assert {name for name in untouched if now[name] != untouched[name]} == {"corpus.json"}
    sides = {split: numbers(decoded(after, paths["books"])) for split, paths in (("t", after.train), ("h", after.held_out))}
    assert len(sides["t"] | sides["h"]) == 200 and not sides["t"] & sides["h"]
    assert sides["h"] == numbers(decoded(before, before.held_out["web"])), "an id is on the same side in every source"
    assert prepare(replace(cfg, sources={**cfg.sources, "books": books}), tmp_path / "corpus") == after
    with pytest.raises(ValueError, match="sources.books"):
        prepare(cfg, tmp_path / "corpus")


def test_a_source_that_is_added_keeps_to_what_was_held_out_against_its_hash(tmp_path):
    few = Corpus(sources={"one": write_source(tmp_path, "one", 3)}, max_bytes_per_source=None, held_out_fraction=1e-9)
    first = prepare(few, tmp_path / "corpus", vocab_size=520)
    (held_out,) = numbers(decoded(first, first.held_out["one"]))
    both = replace(few, sources={**few.sources, "two": write_source(tmp_path, "two", 3)})
    second = prepare(both, tmp_path / "corpus", vocab_size=520)
    assert numbers(decoded(second, second.held_out["two"])) == {held_out}


def test_an_interrupted_run_is_done_again(cfg, tmp_path):
    prepare(cfg, tmp_path / "whole")
    prepare(cfg, tmp_path / "run")
    (tmp_path / "run" / "corpus.json").unlink()
    (tmp_path / "run" / "web-train-00000.json").unlink()
    (tmp_path / "run" / "math-train-00000.arrayrecord").write_bytes(b"half")
    (tmp_path / "run" / "web-held_out-00000.arrayrecord.partial").write_bytes(b"half")
    with pytest.raises(FileNotFoundError):
        open_corpus(tmp_path / "run")
    prepare(cfg, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change, name",
    [
        ({"held_out_fraction": 0.2}, "held_out"),
        ({"shard_tokens": 1}, "shard_"),
    ],
)
def test_a_directory_of_another_config_is_refused(cfg, tmp_path, change, name):
    prepare(cfg, tmp_path / "run")
    with pytest.raises(ValueError, match=name):
        prepare(replace(cfg, **change), tmp_path / "run")


def test_a_directory_of_another_vocabulary_is_refused(cfg, tmp_path):
    prepare(cfg, tmp_path / "run")
    with pytest.raises(ValueError, match="vocab_size"):
        prepare(cfg, tmp_path / "run", vocab_size=701)


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f"])
def test_a_single_document_is_cut_at_a_line_near_its_end(cfg, tmp_path, name):
    book = tmp_path / f"{name}.txt"
    book.write_text("".join(f"line {number} of the book\n" for number in range(500)))
    prepared = prepare(replace(cfg, sources={"book": Files(paths=(str(book),))}), tmp_path / "run", 520)
    begin, end = ("".join(decoded(prepared, paths["book"])) for paths in (prepared.train, prepared.held_out))
    assert begin + end == book.read_text() and begin.endswith("book\n")
    assert 0.08 < len(end) / len(begin + end) < 0.12


@pytest.mark.parametrize("gone", [False, True])
def test_what_was_prepared_stays_when_its_input_changes_or_goes(cfg, tmp_path, gone):
    first = prepare(cfg, tmp_path / "run")
    before, lines = modified(tmp_path / "run"), []
    if gone:
        Path(cfg.sources["math"].paths[0]).unlink()
    else:
        write_source(tmp_path, "math", num_documents=150)
    assert prepare_corpus(cfg, tmp_path / "run", vocab_size=700, report=lines.append) == first
    assert modified(tmp_path / "run") == before
    assert [("math" in line, "web" in line) for line in lines[1:]] == [(True, False)]


def test_a_finished_corpus_that_lost_a_shard_is_refused(cfg, tmp_path):
    prepared = prepare(cfg, tmp_path / "run")
    prepared.train["web"][1].unlink()
    with pytest.raises(ValueError, match=prepared.train["web"][1].name):
        prepare(cfg, tmp_path / "run")


def test_a_budget_takes_a_fair_subset_whatever_the_order_of_the_files(cfg, tmp_path):
    budget = 20_000
    chosen = {}
    path = Path(cfg.sources["web"].paths[0])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[::5]:
        record["text"] *= 9
    path.write_text("\n".join(map(json.dumps, records)))
    for name in ("one", "two"):
        prepared = prepare(replace(cfg, max_bytes_per_source=budget), tmp_path / name)
        paths = prepared.train["web"] + prepared.held_out["web"]
        chosen[name] = decoded(prepared, paths)
        path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert chosen["one"] == chosen["two"]
    assert 0.8 * budget < sum(len(text.encode()) for text in chosen["one"]) <= budget
    assert 50 < np.mean([int(number) for number in numbers(chosen["one"])]) < 150
    assert prepared.held_out["web"]


def test_a_given_tokenizer_is_used(cfg, tmp_path):
    save_ranks(tmp_path / "given.model", [*BYTES, b"ab"])
    given = replace(cfg, tokenizer_path=str(tmp_path / "given.model"))
    with pytest.raises(ValueError, match="513"):
        prepare(given, tmp_path / "run")
    prepared = prepare(given, tmp_path / "run", vocab_size=513)
    assert Tokenizer.load(prepared.tokenizer_path).tokens[256:] == (b"ab",)


def test_few_documents_are_split_or_refused(cfg, tmp_path):
    two = replace(cfg, sources={"two": write_source(tmp_path, "two", 2)}, held_out_fraction=0.01)
    prepared = prepare(two, tmp_path / "run", vocab_size=520)
    assert {split: counts.documents for split, counts in prepared.counts["two"].items()} == {
        "train": 1,
        "held_out": 1,
    }
    with pytest.raises(ValueError, match="max_bytes_per_source=10"):
        prepare(replace(two, max_bytes_per_source=10), tmp_path / "other", vocab_size=520)


def test_too_little_text_for_the_vocabulary_is_refused(cfg, tmp_path):
    with pytest.raises(ValueError, match="vocab_size=100000"):
        prepare(cfg, tmp_path / "run", vocab_size=100_000)


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {}},
        {"sources": {"a/b": PythonDocs()}},
        {"max_bytes_per_source": 0},
        {"held_out_fraction": 0.0},
        {"held_out_fraction": 0.6},
        {"shard_tokens": 0},
    ],
)
def test_a_config_that_cannot_work_is_refused(cfg, change):
    with pytest.raises(ValueError, match=next(iter(change)).removesuffix("s")):
        replace(cfg, **change)


def test_the_python_on_this_machine_is_a_corpus(tmp_path):
    cfg = Corpus(
        sources={"docs": PythonDocs(), "code": PythonCode()},
        max_bytes_per_source=300_000,
        held_out_fraction=0.1,
    )
    prepared = prepare(cfg, tmp_path / "run", vocab_size=1024)
    for source in cfg.sources:
        counts = prepared.counts[source]["train"]
        assert 100_000 < counts.bytes <= 300_000
        assert 2 < counts.bytes / counts.tokens < 5

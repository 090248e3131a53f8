"""What single stages promise, on partitions made for it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawl import prose

from llama3_jax.curation.documents import SCHEMA, DocumentWriter, read_groups
from llama3_jax.curation.engine import Engine, Scheduler
from llama3_jax.curation.heuristics.dirty_words import DirtyWords
from llama3_jax.curation.heuristics.settings import Heuristics, Rules
from llama3_jax.curation.partition import Context, Partition
from llama3_jax.curation.stages.exact_duplicates import SameContent, SameUrl, deduplicate_contents, deduplicate_urls
from llama3_jax.curation.stages.heuristics import HeuristicRules, judge_heuristics
from llama3_jax.curation.stages.lines import Lines, deduplicate_lines
from llama3_jax.curation.stages.near_duplicates import NearDuplicates, near_duplicates
from llama3_jax.curation.step import file_digest


@pytest.fixture(scope="module")
def scheduler():
    return Scheduler(Engine(workers=1))


@pytest.fixture
def context(tmp_path, scheduler):
    return Context(tmp_path / "stages", scheduler, lambda *_: None)


def partitions(tmp_path, *parts):
    """One for each list of rows; what a row does not say is empty."""
    made = []
    for number, rows in enumerate(parts):
        full = [{name: "" for name in SCHEMA.names} | {"source": "s", "language": "en"} | row for row in rows]
        path = tmp_path / f"part-{number}.parquet"
        with DocumentWriter(path) as writer:
            writer.write(pa.Table.from_pylist(full, schema=SCHEMA))
        made.append(Partition(path, file_digest(path), "s", len(rows), sum(len(row["text"].encode()) for row in full)))
    return tuple(made)


def kept(outcome):
    return {row["id"]: row["text"] for part in outcome.partitions for row in pq.read_table(part.path).to_pylist()}


def lost(outcome):
    files = [part.path.parent / "rejected.parquet" for part in outcome.partitions]
    return {row["id"]: row["detail"] for file in files for row in pq.read_table(file).to_pylist()}


def test_the_newest_version_of_a_url_stays_wherever_it_lies(context, tmp_path):
    parts = partitions(
        tmp_path,
        [{"id": "old", "url": "http://a.org/x/", "crawl_time": "2023-01-01"}, {"id": "no address"}],
        [{"id": "new", "url": "https://www.a.org/x#top", "crawl_time": "2024-01-01"}, {"id": "neither"}],
        [{"id": "b", "url": "http://a.org/x?utm_id=1", "crawl_time": "2024-01-01", "language": "de"}],
        [{"id": "other", "url": "http://a.org/y", "crawl_time": "2020"}],
    )
    outcome = deduplicate_urls(context, parts, SameUrl())
    assert lost(outcome) == {"old": "b", "new": "b"}  # of equally new ones the smallest id
    assert kept(outcome).keys() == {"no address", "neither", "b", "other"}


@pytest.mark.parametrize("deduplicate, settings", [(deduplicate_contents, SameContent()), (near_duplicates, NearDuplicates())])
def test_another_crawl_time_is_another_newest(context, tmp_path, deduplicate, settings):
    rows = [{"id": "a", "text": prose(1), "crawl_time": "2024"}, {"id": "b", "text": prose(1), "crawl_time": "2025"}]
    assert lost(deduplicate(context, partitions(tmp_path, rows), settings)) == {"a": "b"}
    rows[0]["crawl_time"] = "2026"
    assert lost(deduplicate(context, partitions(tmp_path, rows), settings)) == {"b": "a"}


def test_a_changed_word_list_is_another_judgement(context, tmp_path):
    words = tmp_path / "words.txt"
    rules = Rules(repetition=None, divergence=None, dirty_words=DirtyWords(lists={"en": str(words)}, max_share=0.01))
    parts = partitions(tmp_path, [{"id": "a", "text": "one bad thing"}, {"id": "b", "text": "one odd thing"}])
    for listed, gone in (("bad", "a"), ("odd", "b")):
        words.write_text(f"{listed}\n")
        outcome = judge_heuristics(context, parts, HeuristicRules(rules=Heuristics(default=rules)))
        assert lost(outcome).keys() == {gone}


def test_equal_texts_are_duplicates_within_a_language(context, tmp_path):
    parts = partitions(
        tmp_path,
        [{"id": "a", "text": "same text"}, {"id": "b", "text": "Same text"}],
        [{"id": "c", "text": "same text\n"}, {"id": "d", "text": "same text", "language": "de"}],
    )
    assert lost(deduplicate_contents(context, parts, SameContent())) == {"c": "a"}


def test_a_chain_of_near_duplicates_is_one_component(context, tmp_path):
    words = prose(1, 60).split()
    chain = [" ".join(words[step : step + 400]) for step in range(0, 200, 8)]
    rows = [{"id": f"{number:03}", "text": text} for number, text in enumerate(chain)]
    rows += [{"id": "far", "text": prose(2, 60)}, {"id": "german", "text": chain[0], "language": "de"}]
    outcome = near_duplicates(context, partitions(tmp_path, rows[::2], rows[1::2]), NearDuplicates())
    assert kept(outcome).keys() == {"000", "far", "german"}
    assert set(lost(outcome).values()) == {"000"}


def test_lines_are_counted_in_each_bucket_of_each_language(context, tmp_path):
    def rows(name, count, line, language="en"):
        return [{"id": f"{name}{n}", "text": f"{prose(f'{name}{n}', 2)}\n{line}", "language": language} for n in range(count)]

    line = "Read more on page 7!"
    often, seldom = rows("a", 7, line), rows("b", 3, line.replace("7", "12"))
    german = rows("g", 6, line, "de")
    settings = Lines(at_most=6, bucket_documents=7)
    parts = partitions(tmp_path, often[:4], often[4:] + german[:3], seldom + german[3:])
    outcome = deduplicate_lines(context, parts, settings)
    texts = kept(outcome)
    assert not any("Read more" in text for name, text in texts.items() if name[0] == "a")  # 7 in the first bucket of 7
    assert all("Read more" in text for name, text in texts.items() if name[0] in "bg")  # 3 in the second; 6 in German
    assert outcome.facts["removed_lines"]["top"] == [{"language": "en", "line": line, "occurrences": 7}]


def test_partitions_are_read_in_groups_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("llama3_jax.curation.documents.GROUP_BYTES", 1000)
    parts = partitions(tmp_path, [{"id": str(n), "text": "x" * 300} for n in range(20)])
    assert [group.num_rows for group in read_groups(parts[0].path)] == [4] * 5

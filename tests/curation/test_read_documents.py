"""Every known kind of file gives its documents; what cannot be read is named with its place."""

import gzip
import itertools
import json
import logging
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.document import Document
from llama3_jax.curation.files import find_files, read_documents

RECORDS = [{"id": "a", "text": "one\ntwo"}, {"text": "漢字"}, {"id": 7, "text": "three"}]
LINES = "\n".join(map(json.dumps, RECORDS)).encode() + b"\n"


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def texts(*paths) -> list[str]:
    return [document.text for document in read_documents(paths)]


@pytest.mark.parametrize("suffix, pack", [(".jsonl", bytes), (".jsonl.gz", gzip.compress), (".jsonl.zst", zstd)])
def test_lines_of_json(tmp_path, suffix, pack):
    path = tmp_path / f"some{suffix}"
    path.write_bytes(pack(LINES))
    assert list(read_documents([path])) == [
        Document("a", "one\ntwo"),
        Document(f"{path}:2", "漢字"),
        Document("7", "three"),
    ]


@pytest.mark.parametrize("with_id", [True, False])
def test_rows_of_parquet(tmp_path, with_id):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "some.parquet"
    columns = {"text": [f"text {i}" for i in range(600)], "other": list(range(600))}
    if with_id:
        columns["id"] = [f"id{i}" for i in range(600)]
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    documents = list(read_documents([path]))
    assert [document.text for document in documents] == columns["text"]
    assert documents[599].id == ("id599" if with_id else f"{path}:600")


def test_a_record_may_name_its_language(tmp_path):
    records = [{"lang": "de"}, {"language": "fr", "lang": "x"}, {"lang": 3}, {}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "a"} | record) for record in records))
    assert [document.language for document in read_documents([tmp_path / "a.jsonl"])] == ["de", "fr", "", ""]
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": ["a", "b"], "lang": ["de", None]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    assert [document.language for document in read_documents([tmp_path / "a.parquet"])] == ["de", ""]


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.TXT"
    path.write_text("one\n\ntwo", encoding="utf-8-sig")
    assert list(read_documents([str(path)])) == [Document(str(path), "one\n\ntwo")]


def test_directories_are_walked_in_order(tmp_path):
    for name in ("b/z.md", "b/a.txt", "a.jsonl", "c.py", "b/c.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert texts(tmp_path) == ["a.jsonl", "b/a.txt", "b/z.md"]
    assert texts(tmp_path / "b/z.md", tmp_path / "a.jsonl") == ["b/z.md", "a.jsonl"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20), st.integers(1, 64))
def test_zstandard_frames_may_break_anywhere(tmp_path_factory, lines, size):
    data = "".join(json.dumps({"text": "x" + line}, ensure_ascii=False) + "\n" for line in lines).encode()
    path = tmp_path_factory.mktemp("zst") / "some.jsonl.zst"
    path.write_bytes(b"".join(zstd(data[i : i + size]) for i in range(0, len(data), size)))
    assert texts(path) == ["x" + line for line in lines]


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b"not json\n")
    assert len(list(itertools.islice(read_documents([path]), 3))) == 3


def test_blank_documents_are_counted(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": " \\n"}\n\n{"text": null}\n')
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["x"]
    (record,) = caplog.records
    assert "a.jsonl" in record.getMessage() and " 2 " in record.getMessage()


@pytest.mark.parametrize(
    "line, names",
    [
        (b'{"text": "x"', ":2"),
        (b'{"txt": "x"}', "txt"),
        (b'["text"]', "list"),
        (b'{"text": 3}', "int"),
        (b'{"text": "x\xe9y"}', "byte 11"),
        (b'{"text": "x\\ud800"}', "surrogate"),
        (b'{"id": "\\ud800", "text": "x"}', "surrogate"),
    ],
)
@pytest.mark.parametrize("suffix, pack", [(".jsonl", bytes), (".jsonl.gz", gzip.compress), (".jsonl.zst", zstd)])
def test_a_wrong_line_is_named(tmp_path, line, names, suffix, pack):
    path = tmp_path / f"some{suffix}"
    path.write_bytes(pack(b'{"text": "good"}\n' + line + b"\n"))
    with pytest.raises(ValueError, match=f"some{suffix}:2") as error:
        texts(path)
    assert names in str(error.value)


@pytest.mark.parametrize("suffix, pack", [(".jsonl.gz", gzip.compress), (".jsonl.zst", zstd)])
def test_a_truncated_archive_is_an_error(tmp_path, suffix, pack):
    path = tmp_path / f"some{suffix}"
    data = pack(b"".join(b'{"text": "%s"}\n' % os.urandom(50).hex().encode() for _ in range(2000)))
    for keep in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match=f"some{suffix}"):
            texts(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match=f"some{suffix}"):
        texts(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_an_archive_cut_after_a_whole_line_is_an_error(tmp_path, suffix):
    path = tmp_path / f"some{suffix}"
    if suffix == ".jsonl.gz":
        writer = zlib.compressobj(wbits=31)
        flush = zlib.Z_SYNC_FLUSH
    else:
        zstandard = pytest.importorskip("zstandard")
        writer = zstandard.ZstdCompressor().compressobj()
        flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    path.write_bytes(writer.compress(LINES) + writer.flush(flush))
    with pytest.raises(ValueError, match="cut short"):
        texts(path)


def test_text_that_is_not_utf8_is_named_by_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt: byte 3"):
        texts(path)


@pytest.mark.parametrize("content", ["truncated", "no text column"])
def test_a_wrong_parquet_is_named(tmp_path, content):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "some.parquet"
    parquet.write_table(pyarrow.table({"txt": ["x"]}), path)
    if content == "truncated":
        os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(ValueError, match=r"some\.parquet"):
        texts(path)


def test_a_missing_path_suggests_the_nearest(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "english.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"corpus/english\.txt\?"):
        read_documents([tmp_path / "corpus" / "englsh.txt"])
    with pytest.raises(FileNotFoundError, match=r"corpus\?"):
        read_documents([tmp_path / "corpsu" / "english.txt"])


def test_what_holds_nothing_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "blank.txt").write_text("  \n")
    (tmp_path / "empty").mkdir()
    for wrong in ([tmp_path / "a.pdf"], [tmp_path / "empty"], [], str(tmp_path)):
        with pytest.raises(ValueError):
            find_files(wrong)
    with pytest.raises(ValueError, match="blank"):
        texts(tmp_path / "blank.txt")


@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="LLAMA3_JAX_DATA names no data directory")
def test_the_real_mix():
    path = Path(os.environ["LLAMA3_JAX_DATA"], "pretrain_mix", "math.jsonl.gz")
    documents = list(itertools.islice(read_documents([path]), 500))
    assert len({document.id for document in documents}) == 500
    assert all(document.text.strip() for document in documents)

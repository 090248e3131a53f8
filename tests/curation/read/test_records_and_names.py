"""Records with fields, the names of files, and encodings that are said wrongly."""

import datetime
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.read.charset import encoding_of
from llama3_jax.curation.read.raw import REASONS, Limits, Raw
from llama3_jax.curation.read.read import find_inputs, read
from llama3_jax.curation.read.records import read_jsonl
from llama3_jax.curation.read.times import iso_utc


def lines(data, name="a.jsonl", **limits):
    return list(read_jsonl(io.BytesIO(data), name, Limits(**limits)))


@pytest.mark.parametrize(
    "said, written",
    [
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("2024-01-02 03:04:05+02:00", "2024-01-02T01:04:05Z"),
        ("20240102030405", "2024-01-02T03:04:05Z"),
        ("Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:05Z"),
        (1704164645, "2024-01-02T03:04:05Z"),
        (1704164645000, "2024-01-02T03:04:05Z"),
        ("1704164645", "2024-01-02T03:04:05Z"),
        (datetime.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05Z"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ("2024", "2024"),
        ("2024-01", "2024-01"),
        ("yesterday", ""),
        ("", ""),
        (None, ""),
        (True, ""),
        (float("nan"), ""),
        (10**30, ""),
    ],
)
def test_times_have_one_form(said, written):
    assert iso_utc(said) == written


@given(st.one_of(st.text(), st.integers(), st.floats(), st.datetimes()))
def test_no_time_is_fatal(said):
    assert isinstance(iso_utc(said), str)


FIELDS = st.dictionaries(st.sampled_from("text html id url lang date x".split()), st.one_of(st.text(), st.none(), st.integers()))


@given(st.lists(st.one_of(st.text(), st.integers(), FIELDS)))
def test_every_line_is_a_document_or_counted(records):
    found = lines("".join(json.dumps(record) + "\n" for record in records).encode())
    assert len(found) == len(records)
    for item in found:
        for value in item:
            str(value).encode()  # nothing that cannot be stored
        assert isinstance(item, Raw) or item.reason in REASONS


def test_a_line_that_is_too_long_costs_itself_alone():
    data = b'{"text": "a"}\n' + b'{"text": "' + bytes(5_000_000) + b'"}\n{"text": "b"}'
    for name, packed in (("a.jsonl", data), ("a.jsonl.gz", gzip.compress(data))):
        found = lines(packed, name, max_record_bytes=10_000)
        assert [getattr(item, "body", None) or item.reason for item in found] == ["a", "too_big", "b"]


def test_nested_and_broken_json_is_counted():
    data = b"[" * 100_000 + b'\n{"text": "\\ud800 x"}\n{"text": NaN}\n\xff\xfe\n{"html": "\\u20ac"}\n'
    found = lines(data)
    assert [getattr(item, "reason", "") for item in found] == ["bad_json", "", "no_text_field", "bad_json", ""]
    assert found[1].body == "? x" and (found[4].body, found[4].encoding) == ("€".encode(), "utf-8")


def test_parquet_that_has_no_text_or_is_damaged_is_counted(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    table = pa.table({"text": ["p" * 5000, "q"], "timestamp": pa.array([0, 1], pa.timestamp("s")), "html": ["", ""]})
    pq.write_table(table, tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.parquet").write_bytes(whole[:40] + b"\xff" * 200 + whole[240:])
    found = {file.name: list(read(file, Limits(max_record_bytes=100))) for file in find_inputs([str(tmp_path)])}
    assert [item.reason for item in found["a.parquet"]] == ["no_text_field"] * 2
    assert found["b.parquet"][0].reason == "too_big"
    assert (found["b.parquet"][1].body, found["b.parquet"][1].crawl_time) == ("q", "1970-01-01T00:00:01Z")
    assert [item.reason for item in found["c.parquet"]] == ["cut_short"]
    assert all(isinstance(item, Raw) or item.reason in REASONS for item in found["d.parquet"])


def test_names_do_not_depend_on_where_the_data_lie(tmp_path):
    names = {}
    for place in ("one", "two/deeper"):
        root = tmp_path / place
        for inside in ("a/x.txt", "b/x.txt", "b/c/y.txt.gz"):
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            (root / inside).write_bytes(b"x")
        names[place] = [
            [file.name for file in find_inputs([str(root)])],
            [file.name for file in find_inputs([str(root / "*")])],
            [file.name for file in find_inputs([str(root / "**/*.txt*")])],
        ]
    assert names["one"] == names["two/deeper"] == [["a/x.txt", "b/c/y.txt.gz", "b/x.txt"]] * 3


def test_files_of_one_name_are_told_apart_and_each_is_read_once(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.txt").write_text(place)
    given_twice = [str(tmp_path / "one/x.txt"), str(tmp_path / "two"), str(tmp_path / "one")]
    assert [file.name for file in find_inputs(given_twice)] == ["one/x.txt", "two/x.txt"]


def test_vendored_and_hidden_files_are_left_out_but_not_pages_of_a_build(tmp_path):
    for inside in ("build/index.html", "build/a.py", "vendor/b.go", ".git/c.py", "src/d.py", "e.png"):
        (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / inside).write_bytes(b"x")
    assert [file.name for file in find_inputs([str(tmp_path)])] == ["build/index.html", "src/d.py"]


def test_a_file_that_went_away_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    (file,) = find_inputs([str(path)])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        list(read(file, Limits()))


CYRILLIC = "Привет, мир! Как дела сегодня? Всё хорошо, спасибо большое. " * 5
JAPANESE = "日本語のページです。今日はとても良い天気ですね。" * 5


@pytest.mark.parametrize(
    "text, stored, content_type, meta",
    [
        (CYRILLIC, "cp1251", "text/html; charset=utf-8", ""),
        (CYRILLIC, "koi8-r", "", "koi8-r"),
        (CYRILLIC, "utf-8", "text/html; charset=windows-1251", "iso-8859-1"),
        (CYRILLIC, "utf-16-le", "", ""),
        (CYRILLIC, "utf-16", "text/html; charset=utf-8", "utf-8"),
        (JAPANESE, "cp932", "", ""),
        (JAPANESE, "euc_jp", "text/html; charset=EUC-JP", "utf-8"),
        (JAPANESE, "iso2022_jp", "", "iso-2022-jp"),
        ("中文网页鎔" * 9, "gb18030", "text/html; charset=gb2312", ""),
        ("naïve café “quoted” " * 9, "cp1252", "text/html; charset=iso-8859-1", ""),
        ("naïve café “quoted” " * 9, "utf-8", "text/html; charset=latin1", ""),
        ("žluťoučký kůň " * 9, "iso8859-2", "", "iso-8859-2"),
        ("naïve café " * 9, "cp1252", "text/html; charset=klingon", "utf-7"),
    ],
)
def test_pages_decode_whatever_is_said_of_them(text, stored, content_type, meta):
    said = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    page = f"<html><head>{said}</head><body>{text}</body></html>"
    data = page.encode(stored)
    assert data.decode(encoding_of(data, content_type)).removeprefix("\ufeff") == page


def test_a_few_broken_characters_do_not_change_the_encoding_of_a_page():
    data = CYRILLIC.encode() + b"\xff\xd0 cut" + CYRILLIC.encode()
    assert encoding_of(data, "text/html; charset=windows-1251") == "utf-8"


@given(st.binary(), st.text(max_size=60))
def test_no_bytes_are_without_a_codec(data, content_type):
    for given_data in (data, b"<meta charset=" + data):
        given_data.decode(encoding_of(given_data, content_type), "replace")

"""What a WARC file gives: against another reader on real files, and what its records and their encodings mean."""

import gzip
import io
import os
import zlib
from pathlib import Path

import pytest
import zstandard

from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.warc import read_warc

PAGE = b"<html><body><p>The river \xe2\x82\xac is wide.</p></body></html>"


def warc(kind, block, content_type, **headers):
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"WARC/1.1\r\nWARC-Type: {kind}\r\n{given}Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def response(body, headers="Content-Type: text/html\r\n", status="200 OK", **warc_headers):
    block = f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body
    return warc("response", block, "application/http; msgtype=response", **warc_headers)


def items(data, name="a.warc", limits=None):
    return list(read_warc(io.BytesIO(data), name, limits or Limits()))


def only(data, name="a.warc"):
    (item,) = items(data, name)
    return item


def chunked(body, size=7):
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.oracle
@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="LLAMA3_JAX_DATA names no data directory")
def test_real_files_read_as_fastwarc_reads_them():
    fastwarc = pytest.importorskip("fastwarc.warc")
    kinds = fastwarc.WarcRecordType
    documents = (kinds.response, kinds.resource, kinds.conversion)
    files = sorted(path for path in Path(os.environ["LLAMA3_JAX_DATA"], "web/warc_samples").iterdir() if ".wat." not in path.name)
    assert files
    for path in files:
        expected = {}
        with open(path, "rb") as file:
            for record in fastwarc.ArchiveIterator(file, parse_http=True, auto_decode="all", fsspec_args=False):
                if record.record_type in documents:
                    expected[record.record_id.strip("<>")] = (record.headers["WARC-Target-URI"].strip("<>"), record.reader.read())
        with open(path, "rb") as file:
            found = list(read_warc(file, path.name, Limits()))
        assert {item.id for item in found} == set(expected), path
        for item in found:
            url, content = expected[item.id]
            assert item.url == url
            assert item.body == content if isinstance(item.body, bytes) else item.body.encode() == content.replace(b"\0", b"")


def test_what_describes_the_crawl_is_no_document_and_no_loss():
    others = [warc(kind, b"x", "text/plain") for kind in ("warcinfo", "request", "metadata", "revisit")]
    dns = warc("response", b"20240101 a.org. IN A 1.2.3.4", "text/dns")
    assert [type(item) for item in items(b"".join([*others, dns, response(PAGE), *others]))] == [Raw]


def test_a_document_keeps_what_its_record_says():
    item = only(
        response(PAGE, WARC_Record_ID="<urn:uuid:1>", WARC_Target_URI="https://a.org/x", WARC_Date="2024-05-06T07:08:09.5Z",
                 WARC_Identified_Content_Language="deu,eng")
    )  # fmt: skip
    assert item == Raw("urn:uuid:1", "https://a.org/x", "2024-05-06T07:08:09Z", "de", "", PAGE, "utf-8")
    wet = only(warc("conversion", "Fluß".encode(), "text/plain", WARC_Target_URI="https://a.org"))
    assert (wet.body, wet.encoding, wet.id) == ("Fluß", "", "a.warc:0")
    resource = only(warc("resource", PAGE, "text/html"))
    assert (resource.body, resource.encoding) == (PAGE, "utf-8")


@pytest.mark.parametrize(
    "said, packed",
    [
        ("gzip", gzip.compress(PAGE)),
        ("x-gzip", gzip.compress(PAGE[:20]) + gzip.compress(PAGE[20:])),
        ("deflate", zlib.compress(PAGE)),
        ("deflate", zlib.compress(PAGE)[2:-4]),
        ("zstd", zstandard.compress(PAGE)),
        ("gzip, zstd", zstandard.compress(gzip.compress(PAGE))),
        ("identity", PAGE),
        ("gzip", PAGE),
        ("br", PAGE),
        ("klingon", PAGE),
    ],
    ids=range(10),  # processes that share the tests have to name them alike, and gzip writes the time
)
def test_content_encodings_are_taken_off_or_were_before(said, packed):
    headers = f"Content-Type: text/html\r\nContent-Encoding: {said}\r\n"
    assert only(response(packed, headers)).body == PAGE
    assert only(response(chunked(packed), headers + "Transfer-Encoding: chunked\r\n")).body == PAGE
    assert only(response(packed, headers + "Transfer-Encoding: chunked\r\n")).body == PAGE


def test_brotli_is_read_where_it_is_installed():
    brotli = pytest.importorskip("brotli")
    headers = "Content-Type: text/html\r\nContent-Encoding: br\r\n"
    assert only(response(brotli.compress(PAGE), headers)).body == PAGE


@pytest.mark.parametrize(
    "record, reason, value",
    [
        (response(PAGE, status="404 Not Found"), "http_status", 404),
        (response(b"{}", "Content-Type: application/json\r\n"), "not_text", "application/json"),
        (response(b"%PDF-1.7 ...", "Content-Type: text/html\r\n"), "not_text", "text/html"),
        (response(b"\x01\x02", "Content-Encoding: klingon\r\n"), "unknown_encoding", "klingon"),
        (response(b"<div>" * 2000), "too_deep", 2000),
        (response(gzip.compress(bytes(3_000_000)), "Content-Encoding: gzip\r\n"), "expands_too_much", None),
        (response(b"x" * 40_000_000), "too_big", None),
        (warc("response", b"no status", "application/http"), "bad_record", "no HTTP status line"),
        (warc("strange", b"x", "text/plain"), "bad_record", "WARC-Type is 'strange'"),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(record, reason, value):
    item = only(record)
    assert isinstance(item, Skipped) and item.reason == reason and value in (None, item.value)
    assert only(gzip.compress(record), "a.warc.gz").reason in (reason, "too_big", "expands_too_much")


@pytest.mark.parametrize(
    "headers, body, is_page",
    [
        ("", PAGE, True),
        ("", b"only words", False),
        ("Content-Type: application/octet-stream\r\n", b"<!DOCTYPE html><title>x</title>", True),
        ("Content-Type: text/plain\r\n", PAGE, True),
        ("Content-Type: TEXT/HTML; charset=x\r\n", b"<p>x", True),
        ("content-type: application/xhtml+xml\r\n", b"<p>x", True),
        ("Content-Type: text/plain\r\n", b"<p is not HTML by itself", False),
    ],
)
def test_the_kind_is_seen_where_it_is_not_said(headers, body, is_page):
    assert isinstance(only(response(body, headers)).body, bytes) is is_page


def test_zstandard_archives_with_their_own_dictionary():
    records = [response(PAGE.replace(b"river", b"river %d" % n), WARC_Record_ID=f"<urn:{n}>") for n in range(300)]
    dictionary = zstandard.train_dictionary(2**12, records)
    packer = zstandard.ZstdCompressor(dict_data=dictionary)
    frames = b"".join(packer.compress(record) for record in records)
    for stored in (dictionary.as_bytes(), zstandard.compress(dictionary.as_bytes())):
        data = b"\x5d\x2a\x4d\x18" + len(stored).to_bytes(4, "little") + stored + frames
        assert [item.id for item in items(data, "a.warc.zst")] == [f"urn:{n}" for n in range(300)]


def test_records_that_lack_line_ends_or_have_more_are_read():
    record = response(PAGE)
    for between in (b"", b"\n", b"\r\n", b"\r\n\r\n\r\n\r\n"):
        data = between.join([record[:-4]] * 3)
        assert len([item for item in items(data) if isinstance(item, Raw)]) == 3, between
    head, _, block = record.partition(b"\r\n\r\n")
    assert only(head.replace(b"\r\n", b"\n") + b"\n\n" + block[:-4] + b"\n\n").body == PAGE

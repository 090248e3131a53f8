"""Damaged archives: every record is read or counted, none ends the reading, and what one costs is bounded."""

import base64
import gzip
import hashlib
import io
import itertools
import random
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.read.raw import REASONS, Limits, Raw, Skipped
from llama3_jax.curation.read.read import _READERS, _suffix
from llama3_jax.curation.read.warc import read_warc

LIMITS = Limits(max_record_bytes=2**20)
WORDS = b"river stone light winter garden letter mountain harbour music engine window forest paper silver".split()


def record(number, html, *, headers=b"Content-Type: text/html\r\n", length=None):
    http = b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + html
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:n:%d>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        b"WARC-Target-URI: https://a.org/%d\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: %s\r\n"
        b"WARC-Block-Digest: sha1:%s\r\n\r\n"
    )
    digest = base64.b32encode(hashlib.sha1(http).digest())
    return head % (number, number, b"%d" % len(http) if length is None else length, digest) + http + b"\r\n\r\n"


def page(rng):
    return b"<html><body><p>" + b" ".join(rng.choices(WORDS, k=rng.randrange(5, 300))) + b"</p></body></html>"


def packed(data, level=6):
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


PACKERS = {"a.warc.gz": packed, "a.warc.zst": zstandard.compress, "a.warc": bytes}
BOMB = {name: pack(record(0, b"<p>" + bytes(8_000_000))) for name, pack in PACKERS.items()}


def mutated(rng, number, name):
    """A record damaged in a way that crawls and their copies are, as it stands in such a file."""
    pack = PACKERS[name]
    html = page(rng)
    kind = rng.choice("sound sound deep charset nul length truncated flipped packed_flip packed_cut header coding bomb".split())
    if kind == "deep":
        html = rng.choice([b"<div>", b"<span><b>", b"<a x='>'>", b"<DIV></b>"]) * 100_000 + html
    elif kind == "charset":
        html = b"<meta charset=%s>" % rng.choice([b"utf-7", b"klingon", b"utf-16", b"\xff\xfe", b"hex", b"idna"]) + html
        html += rng.randbytes(300)
    elif kind == "nul":
        html = bytes(rng.randrange(400)) + html.replace(b" ", b"\0")
    elif kind == "length":
        wrong = [b"-1", b"0", b"7", b"99999999", b"9" * 40, b"x", b"", b"1e3", b"%d" % (len(html) // 2)]
        return kind, pack(record(number, html, length=rng.choice(wrong)))
    elif kind == "coding":
        coding = rng.choice([b"gzip", b"br", b"deflate", b"zstd", b"klingon", b"gzip, gzip, gzip, gzip, gzip"])
        body = rng.choice([html, gzip.compress(html)[:-9], gzip.compress(bytes(5_000_000)), zlib.compress(bytes(5_000_000)),
                           zstandard.compress(bytes(5_000_000)), rng.randbytes(90)])  # fmt: skip
        chunked = rng.choice([b"", b"Transfer-Encoding: chunked\r\n"])
        return kind, pack(record(number, body, headers=b"Content-Encoding: " + coding + b"\r\n" + chunked))
    elif kind == "bomb":
        return kind, BOMB[name]
    data = bytearray(record(number, html))
    if kind == "truncated":
        del data[rng.randrange(12, len(data) - 4) :]
    elif kind == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "header":
        at = rng.randrange(300)
        data[at : at + rng.randrange(1, 60)] = rng.randbytes(rng.randrange(1, 60))
    member = bytearray(pack(bytes(data)))
    if kind == "packed_flip":
        member[rng.randrange(len(member))] ^= 1 << rng.randrange(8)
    elif kind == "packed_cut":
        del member[rng.randrange(4, len(member)) :]
    return kind, bytes(member)


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_damaged_record_is_read_or_counted(count, name):
    """Between two sound records that are always found, each damaged one is one document, one loss, or (where the damage
    made it another type of record, or cut it in two) at most two."""
    rng = random.Random(count)
    members, kinds = [], []
    for number in range(count):
        kind, member = mutated(rng, number, name)
        kinds.append(kind)
        members += [member, PACKERS[name](record(10**6 + number, page(rng)))]
    started = time.process_time()
    items = list(read_warc(io.BytesIO(b"".join(members)), name, LIMITS))
    assert time.process_time() - started < 2 + 0.02 * count
    assert all(isinstance(item, Raw) or item.reason in REASONS for item in items)
    assert all(len(item.body) <= LIMITS.max_record_bytes for item in items if isinstance(item, Raw))
    guards = [place for place, item in enumerate(items) if isinstance(item, Raw) and item.id.startswith("urn:n:1") and
              len(item.id) == len("urn:n:1000000")]  # fmt: skip
    assert [int(items[place].id[6:]) - 10**6 for place in guards] == list(range(count))
    between = [after - before - 1 for before, after in zip([-1, *guards], guards, strict=False)]
    uncounted = [kind for kind, number in zip(kinds, between, strict=True) if number == 0]
    assert set(uncounted) <= {"flipped", "header"} and len(uncounted) <= 0.02 * count, uncounted
    assert max(between) <= 2
    read = [items[place - 1] for place, kind in zip(guards, kinds, strict=True) if kind == "sound"]
    assert all(isinstance(item, Raw) for item in read)
    lost = {item.reason for item in items if isinstance(item, Skipped)}
    assert lost >= {"too_deep", "bad_record", "bad_length", "unknown_encoding", "bad_encoding"}
    assert lost & {"expands_too_much", "too_big"}


def test_one_damaged_record_of_a_plain_file_costs_itself():
    rng = random.Random(0)
    for length in (b"3", b"99999999999", b"400", b"-1", b"9" * 99):
        data = record(1, page(rng)) + record(2, page(rng), length=length) + record(3, page(rng)) + record(4, page(rng))
        items = list(read_warc(io.BytesIO(data), "a.warc", LIMITS))
        assert [item.id for item in items if isinstance(item, Raw)] == ["urn:n:1", "urn:n:3", "urn:n:4"], length
        assert [(item.where, item.reason) for item in items if isinstance(item, Skipped)] == [("urn:n:2", "bad_length")], length


@pytest.mark.parametrize("name", PACKERS)
def test_a_file_cut_short_gives_what_it_has_and_says_so(name):
    rng = random.Random(1)
    records = [PACKERS[name](record(number, page(rng))) for number in range(5)]
    whole = b"".join(records)
    for cut in (len(records[-1]) // 2, 12, len(records[-1]) - 1):
        items = list(read_warc(io.BytesIO(whole[:-cut]), name, LIMITS))
        assert [item.id for item in items[:4]] == [f"urn:n:{number}" for number in range(4)]
        assert len(items) == 5 and items[4].reason in ("cut_short", "bad_record")


def test_one_gzip_member_around_many_records_is_read_up_to_its_damage():
    rng = random.Random(2)
    whole = packed(b"".join(record(number, page(rng)) for number in range(50)))
    items = list(read_warc(io.BytesIO(whole), "a.warc.gz", LIMITS))
    assert [item.id for item in items] == [f"urn:n:{number}" for number in range(50)]
    items = list(read_warc(io.BytesIO(whole[: len(whole) // 2]), "a.warc.gz", LIMITS))
    assert [item.id for item in items[:-1]] == [f"urn:n:{number}" for number in range(len(items) - 1)]
    assert 15 < len(items) < 35 and items[-1].reason == "cut_short"


@given(st.integers(0, 2**32), st.lists(st.floats(0, 1), max_size=6))
def test_parts_of_an_archive_are_together_all_of_it(seed, edges):
    """Wherever it is cut, damaged records, members without a record and records of several members included."""
    rng = random.Random(seed)
    members = []
    for number in range(30):
        members.append(rng.choice([b"", b"", b"", packed(b"\r\n"), packed(b"nonsense"), packed(b""), rng.randbytes(9)]))
        whole = record(10**6 + number, page(rng))
        half = rng.randrange(len(whole))
        another = rng.choice([b"", record(2 * 10**6 + number, page(rng))])
        in_two = packed(whole[:half]) + packed(whole[half:] + another)
        members.append(rng.choice([packed(whole), in_two, mutated(rng, number, "a.warc.gz")[1]]))
    data = b"".join(members)
    places = sorted({0, *(int(edge * len(data)) for edge in edges), len(data)})
    parts = [read_warc(io.BytesIO(data), "a.warc.gz", LIMITS, *part) for part in itertools.pairwise(places)]
    assert list(itertools.chain.from_iterable(parts)) == list(read_warc(io.BytesIO(data), "a.warc.gz", LIMITS))


@given(st.binary(max_size=600), st.sampled_from(["a.warc", "a.warc.gz", "a.warc.zst"]), st.booleans())
def test_no_bytes_are_fatal(data, name, as_record):
    if as_record:
        data = record(1, data, headers=data[:40])
    data = PACKERS[name](data) + data[:20]
    for item in read_warc(io.BytesIO(data), name, LIMITS):
        assert isinstance(item, Raw) or item.reason in REASONS


def test_a_gigabyte_of_zeros_costs_neither_memory_nor_time(tmp_path):
    """As a gzip member, as a zstandard frame and as a content encoding of each kind."""
    program = f"""
        import gzip, io, resource, sys, time, zlib
        import zstandard
        sys.path[:0] = {[str(Path(__file__).parent)]!r} + {sys.path!r}
        from test_damaged_records import record
        from llama3_jax.curation.read.raw import Limits
        from llama3_jax.curation.read.warc import read_warc
        MIB = 2**20
        def zeros(packer, count=1024):
            return b"".join(packer.compress(bytes(MIB)) for _ in range(count)) + packer.flush()
        gz = zeros(zlib.compressobj(1, zlib.DEFLATED, 31))
        zst = zeros(zstandard.ZstdCompressor().compressobj())
        head = record(1, b"", length=b"%d" % 2**30)[:-4]
        member = zlib.compressobj(1, zlib.DEFLATED, 31)
        frame = zstandard.ZstdCompressor().compressobj()
        bodies = [
            ("a.warc.gz", member.compress(head) + zeros(member)), ("a.warc.zst", frame.compress(head) + zeros(frame)),
            ("a.warc", record(1, gz, headers=b"Content-Encoding: gzip\\r\\n")),
            ("a.warc", record(1, zst, headers=b"Content-Encoding: zstd\\r\\n")),
        ]
        try:
            import brotli
            packer = brotli.Compressor(quality=1)
            br = b"".join(packer.process(bytes(MIB)) for _ in range(1024)) + packer.finish()
            bodies.append(("a.warc", record(1, br, headers=b"Content-Encoding: br\\r\\n")))
        except ImportError:
            pass
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        for name, data in bodies:
            reasons = [item.reason for item in read_warc(io.BytesIO(data), name, Limits())]
            assert reasons in (["expands_too_much"], ["too_big"]), (name, reasons)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, time.process_time() - began)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown_mb, seconds = map(float, done.stdout.split())
    assert grown_mb < 250 and seconds < 5, done.stdout


class _Failing(io.BytesIO):
    """A store that gives up half way."""

    def read(self, *size):
        if self.tell() >= 2**18:
            raise OSError(5, "connection reset")
        return super().read(*size)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_a_store_that_fails_is_an_error_and_no_loss(name):
    data = random.Random(0).randbytes(2**20)
    if name == "a.parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": [data[at : at + 2**12].hex() for at in range(0, 2**20, 2**12)]}), sink)
        stored = sink.getvalue()
    else:
        stored = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)(
            record(1, data.hex().encode())
        )
    with pytest.raises(OSError, match="connection reset"):
        list(_READERS[_suffix(name)](_Failing(stored), name, Limits()))

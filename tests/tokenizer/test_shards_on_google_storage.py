"""gs:// is read as s3:// is: found by pattern, fetched once, compared with checksums, tried again.

The client is the real one; the server is this file's, and speaks as much of the storage's JSON protocol as reading takes.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from llama3_jax.batches.shards import open_shards
from llama3_jax.tokenizer.token_shard import TokenShardWriter

# read when gcsfs is imported: else it asks what kind a bucket is by gRPC, which this server does not speak
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
pytest.importorskip("gcsfs", reason="the client of gs:// is in the extra gcs")
fsspec_config = pytest.importorskip("fsspec.config")

DOCUMENTS = [np.arange(first, first + 7, dtype=np.uint32) for first in range(0, 300, 10)]


class Storage(BaseHTTPRequestHandler):
    """Objects of one bucket: listed, described and sent."""

    objects: dict[str, bytes] = {}
    sent: list[str] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        _, found, name = url.path.partition("/o/")
        if not found:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
            names = [name for name in self.objects if name.startswith(prefix)]
            inside = {name[len(prefix) :].partition(delimiter)[0] for name in names} if delimiter else set()
            folders = [f"{prefix}{first}/" for first in sorted(inside) if f"{prefix}{first}" not in self.objects]
            items = [self.described(name) for name in names if not delimiter or delimiter not in name[len(prefix) :]]
            self.answer(json.dumps({"kind": "storage#objects", "items": items, "prefixes": folders}).encode())
        elif (name := unquote(name)) not in self.objects:
            self.answer(b'{"error": {"code": 404, "message": "no such object"}}', status=404)
        elif query.get("alt") != "media":
            self.answer(json.dumps(self.described(name)).encode())
        else:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.sent.append(name)
            self.answer(self.objects[name][int(first) : int(last) + 1 if last else None], status=206)

    def described(self, name):
        size = str(len(self.objects[name]))
        return {"kind": "storage#object", "name": name, "bucket": "lake", "size": size, "generation": "1"}

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        for scheme in ("gs", "gcs"):
            patch.setitem(fsspec_config.conf, scheme, {"token": "anon", "use_listings_cache": False})
        yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def objects(address, tmp_path, monkeypatch):
    path = tmp_path / "web-0.arrayrecord"
    with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=10_000) as shard:
        for document in DOCUMENTS:
            shard.write(document)
    monkeypatch.setenv("LLAMA3_SHARD_CACHE", str(tmp_path / "cache"))
    objects = {f"tokens/{file.name}": file.read_bytes() for file in tmp_path.glob("web-0.*")}
    monkeypatch.setattr(Storage, "objects", objects)
    monkeypatch.setattr(Storage, "sent", [])
    return objects


def test_a_pattern_finds_shards_and_each_is_fetched_once(objects):
    (shard,) = open_shards(["gs://lake/tokens/web-*.arrayrecord"], tokenizer_fingerprint="f")
    assert str(shard.path) == "gs://lake/tokens/web-0.arrayrecord"
    assert "tokens/web-0.arrayrecord" not in Storage.sent, "opening fetches headers only"
    for _ in range(2):
        for number, document in enumerate(DOCUMENTS):
            np.testing.assert_array_equal(shard[number], document)
    assert Storage.sent.count("tokens/web-0.arrayrecord") == 1


def test_what_came_damaged_is_named(objects):
    data = bytearray(objects["tokens/web-0.arrayrecord"])
    data[len(data) // 2] ^= 1
    objects["tokens/web-0.arrayrecord"] = bytes(data)
    (shard,) = open_shards(["gs://lake/tokens/web-0.arrayrecord"], tokenizer_fingerprint="f")
    with pytest.raises(ValueError, match="gs://lake/tokens/web-0.arrayrecord was changed or damaged"):
        shard[0]

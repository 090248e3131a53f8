"""A Google Cloud Storage for tests: the JSON protocol that gcsfs and TensorStore speak, with its generations, which are what
makes writing safe: an object is replaced only if it is still the one that was read."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

BUCKET = "lake"


@contextmanager
def running() -> Iterator[None]:
    """While entered, gs://lake is a bucket, for this process and those it starts."""
    # read when gcsfs is imported: else it asks what kind a bucket is by gRPC, which is not spoken here
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="the client of gs:// is in the extra gcs")
    import fsspec.config

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"storage": _Storage()}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    anonymous = {"token": "anon"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "FSSPEC_GS": json.dumps(anonymous), "FSSPEC_GCS": json.dumps(anonymous),
        }.items():  # fmt: skip
            patch.setenv(name, value)
        for scheme in ("gs", "gcs"):  # fsspec has read the environment by now
            patch.setitem(fsspec.config.conf, scheme, anonymous)
        yield
    server.shutdown()
    server.server_close()


class _Storage:
    """Objects by name: (generation, data). Generations only grow."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.uploads: dict[str, tuple[dict[str, str], bytearray]] = {}
        self.lock = threading.Lock()
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        return next(self._numbers)

    def refuses(self, name: str, query: dict[str, str]) -> int | None:
        """The status of a request whose conditions do not hold; an object that is not there has generation 0."""
        generation = self.objects.get(name, (0, b""))[0]
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            return 412
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            return 304
        return None

    def described(self, name: str) -> dict[str, str]:
        generation, data = self.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(data)), "generation": str(generation),
            "metageneration": "1", "updated": "2026-01-01T00:00:00Z", "timeCreated": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    def listed(self, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for name in sorted(name for name in self.objects if name.startswith(prefix)):
            first, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if found:
                folders.add(f"{prefix}{first}{delimiter}")
            else:
                items.append(self.described(name))
        first, count = int(query.get("pageToken", 0)), int(query.get("maxResults", 1000))
        more = {"nextPageToken": str(first + count)} if len(items) > first + count else {}
        return {"kind": "storage#objects", "items": items[first : first + count], "prefixes": sorted(folders), **more}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: _Storage

    def do_GET(self):
        path, query = self._asked()
        _, found, name = path.partition(f"/b/{BUCKET}/o/")
        with self.storage.lock:
            if not found:
                answer = self.storage.listed(query) if path.endswith("/o") else {"kind": "storage#bucket", "name": BUCKET}
                self._answer(200, json.dumps(answer).encode())
            elif name not in self.storage.objects:
                self._answer(404, b'{"error": {"code": 404, "message": "no such object"}}')
            elif status := self.storage.refuses(name, query):
                self._answer(status)
            elif query.get("alt") != "media":
                self._answer(200, json.dumps(self.storage.described(name)).encode())
            else:
                self._send(*self.storage.objects[name])

    def _send(self, generation: int, data: bytes) -> None:
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._answer(200, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            self._answer(416)
        else:
            self._answer(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def do_POST(self):
        _, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "upload_id" in query:
            self._receive(query["upload_id"], body)
        elif query["uploadType"] == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            with self.storage.lock:
                upload = str(self.storage.next_number())
                self.storage.uploads[upload] = (query | {"name": name}, bytearray())
            host = self.headers["Host"]
            place = f"http://{host}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={upload}"
            self._answer(200, headers={"Location": place})
        elif query["uploadType"] == "multipart":
            border = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            described, data = _parts(body, border)
            self._write({**query, "name": json.loads(described)["name"]}, data)
        else:
            self._write(query, body)

    do_PUT = do_POST

    def _receive(self, upload: str, body: bytes) -> None:
        query, data = self.storage.uploads[upload]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            self._answer(308, headers={"Range": f"bytes=0-{len(data) - 1}"})
        else:
            del self.storage.uploads[upload]
            self._write(query, bytes(data))

    def _write(self, query: dict[str, str], data: bytes) -> None:
        name = query["name"]
        with self.storage.lock:
            if status := self.storage.refuses(name, query):
                self._answer(status)
                return
            self.storage.objects[name] = (self.storage.next_number(), data)
            self._answer(200, json.dumps(self.storage.described(name)).encode())

    def do_DELETE(self):
        path, query = self._asked()
        name = path.partition(f"/b/{BUCKET}/o/")[2]
        with self.storage.lock:
            status = self.storage.refuses(name, query)
            if not status:
                status = 204 if self.storage.objects.pop(name, None) else 404
        self._answer(status)

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return unquote(url.path), dict(parse_qsl(url.query))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _parts(body: bytes, border: bytes) -> list[bytes]:
    """What a multipart body holds: each part begins with headers and an empty line, and ends with a line break."""
    pattern = rb"--" + re.escape(border) + rb"\r?\n.*?\r?\n\r?\n(.*?)\r?\n(?=--" + re.escape(border) + rb")"
    return re.findall(pattern, body, re.DOTALL)

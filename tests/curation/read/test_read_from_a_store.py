"""Input files on an object store read like files here."""

import fsspec
import pytest
from crawl import write_crawl

from llama3_jax.curation.read.raw import Limits
from llama3_jax.curation.read.read import find_inputs, in_parts, read

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")


@pytest.fixture
def client(monkeypatch):
    running = server.ThreadedMotoServer(port=0)
    running.start()
    for name, value in {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*running.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    yield boto3.client("s3")
    fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


def test_a_bucket_is_listed_and_streamed(client, tmp_path):
    crawl = write_crawl(tmp_path / "crawl", pages=6)
    client.create_bucket(Bucket="crawl")
    for path in sorted(crawl.rglob("*.*")):
        client.upload_file(str(path), "crawl", str(path.relative_to(crawl)))
    for given in ("web", "web/*.warc.gz", "books.jsonl"):
        there, here = find_inputs([f"s3://crawl/{given}"]), find_inputs([str(crawl / given)])
        assert [file.name for file in there] == [file.name for file in here]
        assert all(file.version and file.size for file in there)
        assert [list(read(a, Limits())) for a in there] == [list(read(b, Limits())) for b in here]
        for file in there:
            parts = list(in_parts(file, 1000))
            assert (len(parts) > 1) == file.name.endswith(".warc.gz")
            assert [item for part in parts for item in read(part, Limits())] == list(read(file, Limits()))
    with pytest.raises(FileNotFoundError, match="s3://crawl/nothing"):
        find_inputs(["s3://crawl/nothing"])

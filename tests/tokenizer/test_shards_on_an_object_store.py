"""Shards on an object store are found by pattern, fetched once, compared with their checksums, and named when they fail.

A real S3 protocol, on this machine.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llama3_jax.batches.shards import open_shards
from llama3_jax.batches.stream import TokenStream
from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.open_readers import OPEN_READERS
from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter
from llama3_jax.tokenizer.train_bpe import save_ranks

server = pytest.importorskip("moto.server", reason="the S3 server of these tests is moto[server]: it is in the test extra")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three local shards of numbered tokens, and a vocabulary."""
    directory = tmp_path_factory.mktemp("written")
    for number in range(3):
        with TokenShardWriter(
            directory / f"web-{number}.arrayrecord", source="web", tokenizer_fingerprint="f", vocab_size=10_000
        ) as shard:
            for document in range(20):
                first = 400 * number + 20 * document
                shard.write(np.arange(first, first + 1 + (7 * document) % 20, dtype=np.uint32))
    save_ranks(directory / "tokenizer.model", [bytes([byte]) for byte in range(256)])
    return directory


@pytest.fixture(scope="module")
def client():
    """Of a store that has one address as long as this module runs: clients below us keep theirs."""
    import boto3

    running = server.ThreadedMotoServer(port=0)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*running.get_host_and_port()), "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        yield boto3.client("s3")
    running.stop()


@pytest.fixture
def bucket(client, written, tmp_path, monkeypatch, request):
    """The name of a bucket of a test's own, with those files below tokens/."""
    name = request.node.name.replace("_", "-")[:60].rstrip("-")
    client.create_bucket(Bucket=name)
    for path in written.iterdir():
        client.upload_file(str(path), name, f"tokens/{path.name}")
    monkeypatch.setenv("LLAMA3_SHARD_CACHE", str(tmp_path / "cache"))
    yield name
    for shard in written.glob("*.arrayrecord"):
        OPEN_READERS.discard(TokenShard(shard).header.sha256)


def tokens(shards):
    stream = TokenStream(shards, seed=3)
    return np.concatenate(stream.read(5, 2 * stream.num_tokens))


def test_a_pattern_on_the_store_reads_like_files_here(bucket, written, tmp_path):
    remote = open_shards([f"s3://{bucket}/tokens/web-*.arrayrecord"], tokenizer_fingerprint="f")
    assert [str(shard.path) for shard in remote] == [f"s3://{bucket}/tokens/web-{number}.arrayrecord" for number in range(3)]
    assert not list((tmp_path / "cache").glob("*.arrayrecord")), "opening fetches headers only"
    local = open_shards([f"{written}/web-*.arrayrecord"], tokenizer_fingerprint="f")
    np.testing.assert_array_equal(tokens(remote), tokens(local))
    assert len(list((tmp_path / "cache").glob("*.arrayrecord"))) == 3
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_each_is_fetched_once_by_many_threads_and_runs(bucket, client):
    shard = TokenShard(f"s3://{bucket}/tokens/web-0.arrayrecord")
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda number: shard[number % 20].size, range(200)))
    assert sizes == [1 + (7 * (number % 20)) % 20 for number in range(200)]
    client.delete_object(Bucket=bucket, Key="tokens/web-0.arrayrecord")
    again = TokenShard(f"s3://{bucket}/tokens/web-0.arrayrecord")
    assert again[3].size == 2, "from the local copy"


def test_what_came_damaged_is_named_and_not_used(bucket, client, written, tmp_path):
    data = bytearray((written / "web-1.arrayrecord").read_bytes())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=bucket, Key="tokens/web-1.arrayrecord", Body=bytes(data))
    with pytest.raises(ValueError, match=f"s3://{bucket}/tokens/web-1.arrayrecord was changed or damaged"):
        TokenShard(f"s3://{bucket}/tokens/web-1.arrayrecord")[0]
    assert not list((tmp_path / "cache").glob("*.arrayrecord*"))


def test_what_is_not_there_is_named(bucket):
    with pytest.raises(FileNotFoundError, match=f"no token shard at s3://{bucket}/other-"):
        open_shards([f"s3://{bucket}/other-*.arrayrecord"], tokenizer_fingerprint="f")
    with pytest.raises(ValueError, match=f"s3://{bucket}/tokens/none.arrayrecord has no header"):
        TokenShard(f"s3://{bucket}/tokens/none.arrayrecord")


def test_a_store_that_does_not_answer_is_tried_again_and_named(bucket, client):
    lines = []
    shard = TokenShard(f"s3://{bucket}/tokens/web-2.arrayrecord", patience=Patience(lines.append, attempts=2, first_pause_s=0.01))
    client.delete_object(Bucket=bucket, Key="tokens/web-2.arrayrecord")
    with pytest.raises(OSError, match=f"s3://{bucket}/tokens/web-2.arrayrecord cannot be read, tried 2 times"):
        shard[0]
    assert len(lines) == 1 and "attempt 1 of 2" in lines[0]


def test_the_vocabulary_may_lie_there_too(bucket):
    assert Tokenizer.load(f"s3://{bucket}/tokens/tokenizer.model").vocab_size == 512
    with pytest.raises(FileNotFoundError, match=f"no tokenizer at s3://{bucket}/tokens/none.model"):
        Tokenizer.load(f"s3://{bucket}/tokens/none.model")


def test_a_cache_too_small_for_all_makes_room(bucket, written, monkeypatch):
    sizes = [path.stat().st_size for path in written.glob("web-*.arrayrecord")]
    monkeypatch.setenv("LLAMA3_SHARD_CACHE_BYTES", str(max(sizes) + 3000))
    lines = []
    remote = open_shards([f"s3://{bucket}/tokens/web-*.arrayrecord"], tokenizer_fingerprint="f", report=lines.append)
    local = open_shards([f"{written}/web-*.arrayrecord"], tokenizer_fingerprint="f")
    np.testing.assert_array_equal(tokens(remote), tokens(local))
    assert any("again" in line and "LLAMA3_SHARD_CACHE_BYTES" in line for line in lines)
    monkeypatch.setenv("LLAMA3_SHARD_CACHE_BYTES", "10")
    with pytest.raises(ValueError, match="may hold 10; set LLAMA3_SHARD_CACHE_BYTES to more"):
        OPEN_READERS.discard(remote[0].header.sha256)
        open_shards([f"s3://{bucket}/tokens/web-0.arrayrecord"], tokenizer_fingerprint="f")[0][0]


SILENT_STORE = """
import os, socket, threading, time
from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.token_shard import TokenShard

listening = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "AWS_ACCESS_KEY_ID": "a",
               "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
told = threading.Event()

def report(line):
    print(line, flush=True)
    told.set()

opening = lambda: TokenShard("s3://bucket/web-7.arrayrecord", patience=Patience(report, stall_s=0.5))
threading.Thread(target=opening, daemon=True).start()
told.wait(60)
os._exit(0)
"""


def test_a_store_that_takes_the_request_and_is_silent_is_named(tmp_path):
    done = subprocess.run([sys.executable, "-c", SILENT_STORE], capture_output=True, text=True, timeout=120)
    assert "waiting for s3://bucket/web-7.arrayrecord for " in done.stdout, done.stdout + done.stderr

"""`llama3 bench tokenizer` encodes what it is given, beside the library's own batch, and says how fast."""

import pytest

from llama3_jax import commands
from llama3_jax.commands.main import main
from llama3_jax.config.errors import ConfigError


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(f"The herd counted {n} llamas, {n * n} alpacas and no camel." for n in range(4000)))
    return path


def test_ours_and_the_librarys_on_one_thread_and_on_all(texts):
    rates = commands.bench_tokenizer(overrides=[f"texts=[{texts}]", "vocab_size=700", "rounds=1"])
    assert [each.name.split()[0] for each in rates] == ["llama3_jax,", "tiktoken's"] * (len(rates) // 2)
    assert rates[0].num_threads == rates[1].num_threads == 1
    assert all(each.bytes_per_s > 1e5 and each.bytes_per_core_s > 1e5 for each in rates)


def test_the_command_prints_a_table(texts, capsys):
    assert main(["bench", "tokenizer", f"texts=[{texts}]", "vocab_size=700", "rounds=1", "max_bytes=1000000"]) == 0
    out = capsys.readouterr().out
    assert "1 texts of 0 MB, 700 ids, 1 rounds" in out and "MB/s per core" in out and "ours/its" in out


def test_bad_values_are_refused(texts):
    for override, words in (("rounds=0", "rounds=0"), ("vocab_size=512", "vocab_size=512"), ("max_bytes=0", "max_bytes=0")):
        with pytest.raises(ConfigError, match=words):
            commands.bench_tokenizer(overrides=[override])
    with pytest.raises(FileNotFoundError):
        commands.bench_tokenizer(overrides=["texts=[nowhere.txt]"])

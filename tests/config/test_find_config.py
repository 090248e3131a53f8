"""A run file is found by path, without its suffix, or by its published name."""

import pytest

from llama3_jax.config import files
from llama3_jax.config.errors import ConfigError

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch):
    configs = tmp_path / "package" / "configs"
    configs.mkdir(parents=True)
    for name in ("llama3_8b", "quickstart"):
        (configs / f"{name}.yaml").touch()
    monkeypatch.setattr(files, "published_configs", lambda: configs)
    monkeypatch.chdir(tmp_path)
    return configs


def test_a_path_wins_over_a_published_name(tmp_path, published):
    (tmp_path / "quickstart.yaml").touch()
    assert files.find_config("quickstart").resolve() == tmp_path / "quickstart.yaml"
    assert files.find_config("llama3_8b") == published / "llama3_8b.yaml"
    assert files.find_config(published / "quickstart.yaml") == published / "quickstart.yaml"


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(ConfigError, match=r"did you mean 'mine\.yaml'"):
        files.find_config("mime.yaml")
    with pytest.raises(ConfigError, match=r"did you mean 'llama3_8b'\? \(published: llama3_8b, quickstart\)"):
        files.find_config("llama_8b")
    with pytest.raises(ConfigError, match="no such run file"):
        files.find_config("no/such/directory/run.yaml")


def test_published_files_have_short_names_in_messages(tmp_path, published):
    (tmp_path / "mine.yaml").touch()
    assert files.display_name(published / "llama3_8b.yaml") == "configs/llama3_8b.yaml"
    assert files.display_name(tmp_path / "mine.yaml") == "mine.yaml"

"""What `pip install .` brings is enough for every command but those that an extra is for, and those say which."""

import subprocess
import sys

import pytest

from llama3_jax.commands.doctor import requirements
from llama3_jax.commands.main import BENCHES, OF_EXTRAS

PROGRAM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from llama3_jax.commands.main import main
for command in {commands!r}:
    status = main(command)
    print("status", status, file=sys.stderr)
"""


def run(*commands):
    """(exit status, what it says where errors go) of each, where no module of an extra is installed."""
    program = PROGRAM.format(missing=set(OF_EXTRAS), commands=[list(command) for command in commands])
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stderr
    *parts, _ = said.split("status ")
    statuses = [int(part[0]) for part in said.split("status ")[1:]]
    return list(zip(statuses, [part.partition("\n")[2] if number else part for number, part in enumerate(parts)], strict=True))


def test_every_package_of_an_extra_is_known():
    modules = {"fasttext-numpy2-wheel": "fasttext"}
    unseen = {"lxml_html_clean"}  # of trafilatura
    packages = {name: extra for extra in ("data", "s3", "gcs") for name in requirements()[extra] if name not in unseen}
    assert {modules.get(name, name): extra for name, extra in packages.items()} == OF_EXTRAS


def test_the_other_commands_need_none():
    measuring = [("bench", what, "--print-config") for what in BENCHES if what != "curate"]
    others = [("train", "quickstart", "--print-config"), ("generate", "nowhere"), ("checkpoint", "ls", "nowhere")]
    for status, said in run(*measuring, *others, ("convert", "nowhere", "out", "--to", "meta")):
        assert "not installed" not in said and "Traceback" not in said and status in (0, 1, 2)


@pytest.mark.parametrize(
    "command",
    [
        ("curate", "curate_quickstart", "--data", "."),
        ("bench", "curate"),
        ("language", "--labelled", "lines.jsonl", "--out", "model"),
    ],
)
def test_those_that_need_one_say_which(command):
    ((status, said),) = run(command)
    assert status == 1
    assert "is not installed; pip install 'llama3_jax[data]' (in a checkout: '.[data]')" in said and "Traceback" not in said

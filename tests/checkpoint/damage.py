"""Ways in which a disk or a hand spoils a checkpoint directory; each returns the name of the file to be blamed."""

import json
import shutil
from pathlib import Path
from random import Random

from llama3_jax.checkpoint.manifest import hash_of_fields

MANIFEST = "manifest.json"


def files(checkpoint: Path) -> list[Path]:
    """Its data files, largest first."""
    found = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST]
    return sorted(found, key=lambda path: -path.stat().st_size)


def truncate(checkpoint: Path) -> str:
    path = files(checkpoint)[0]
    path.write_bytes(path.read_bytes()[:-1])
    return path.name


def flip_bit(checkpoint: Path) -> str:
    path = files(checkpoint)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def zero(checkpoint: Path) -> str:
    path = files(checkpoint)[0]
    path.write_bytes(bytes(path.stat().st_size))
    return path.name


def empty(checkpoint: Path) -> str:
    path = files(checkpoint)[-1]
    path.write_bytes(b"")
    return path.name


def swap(checkpoint: Path) -> str:
    one, two = files(checkpoint)[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return "arrays"


def delete(checkpoint: Path) -> str:
    path = files(checkpoint)[0]
    path.unlink()
    return path.name


def add(checkpoint: Path) -> str:
    (checkpoint / "arrays" / "surprise").write_bytes(b"hello")
    return "surprise"


def lose_manifest(checkpoint: Path) -> str:
    (checkpoint / MANIFEST).unlink()
    return MANIFEST


def truncate_manifest(checkpoint: Path) -> str:
    path = checkpoint / MANIFEST
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return MANIFEST


def zero_manifest(checkpoint: Path) -> str:
    path = checkpoint / MANIFEST
    path.write_bytes(bytes(path.stat().st_size))
    return MANIFEST


def replace_manifest(checkpoint: Path) -> str:
    (checkpoint / MANIFEST).write_text("[1, 2]")
    return MANIFEST


def binary_manifest(checkpoint: Path) -> str:
    (checkpoint / MANIFEST).write_bytes(b"\xff\xfe\x00\x80")
    return MANIFEST


def strange_manifest(checkpoint: Path) -> str:
    (checkpoint / MANIFEST).write_text('{"format_version": 1, "surprise": 3}')
    return MANIFEST


ALL = (
    truncate, flip_bit, zero, empty, swap, delete, add, lose_manifest, truncate_manifest, zero_manifest,
    replace_manifest, binary_manifest, strange_manifest,
)  # fmt: skip


def _any(random: Random, checkpoint: Path) -> Path:
    return random.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size))


def _write(path: Path, data: bytes) -> str:
    assert data != path.read_bytes()
    path.write_bytes(data)
    return path.name


def cut_anywhere(random: Random, checkpoint: Path) -> str:
    path = _any(random, checkpoint)
    return _write(path, path.read_bytes()[: random.randrange(path.stat().st_size)])


def flip_anywhere(random: Random, checkpoint: Path) -> str:
    path = random.choice(files(checkpoint))
    data = bytearray(path.read_bytes() or b"\0")
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return _write(path, bytes(data))


def zero_a_stretch(random: Random, checkpoint: Path) -> str:
    path = files(checkpoint)[0]
    data = path.read_bytes()
    first = random.randrange(len(data) // 2)
    return _write(path, data[:first] + bytes(len(data) // 2) + data[first + len(data) // 2 :])


def lengthen(random: Random, checkpoint: Path) -> str:
    path = _any(random, checkpoint)
    return _write(path, path.read_bytes() + random.randbytes(random.randrange(1, 50)))


def swap_any_two(random: Random, checkpoint: Path) -> str:
    one, two = random.sample(files(checkpoint), 2)
    while one.read_bytes() == two.read_bytes():
        one, two = random.sample(files(checkpoint), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return str(checkpoint)


def take_a_file_of_the_one_before(random: Random, checkpoint: Path) -> str:
    before = min(path for path in checkpoint.parent.iterdir() if path.is_dir())
    one, two = files(checkpoint)[0], files(before)[0]
    return _write(one, two.read_bytes())


def take_the_manifest_of_the_one_before(random: Random, checkpoint: Path) -> str:
    before = min(path for path in checkpoint.parent.iterdir() if path.is_dir())
    return _write(checkpoint / MANIFEST, (before / MANIFEST).read_bytes()) and str(checkpoint)


def be_the_one_before(random: Random, checkpoint: Path) -> str:
    before = min(path for path in checkpoint.parent.iterdir() if path.is_dir())
    shutil.rmtree(checkpoint)
    shutil.copytree(before, checkpoint)
    return str(checkpoint)


def lose_a_file(random: Random, checkpoint: Path) -> str:
    path = _any(random, checkpoint)
    path.unlink()
    return path.name


def lose_everything(random: Random, checkpoint: Path) -> str:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    return MANIFEST


def find_a_stranger(random: Random, checkpoint: Path) -> str:
    places = [checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())]
    stranger = random.choice(places) / f"stranger{random.randrange(100)}"
    stranger.write_bytes(random.randbytes(random.randrange(20)))
    return stranger.name


def point_nowhere(random: Random, checkpoint: Path) -> str:
    path = _any(random, checkpoint)
    path.unlink()
    path.symlink_to("nowhere")
    return path.name


def find_an_empty_directory(random: Random, checkpoint: Path) -> str:
    stranger = random.choice([checkpoint, checkpoint / "arrays"]) / f"stranger{random.randrange(100)}"
    stranger.mkdir()
    return stranger.name


def find_a_link_to_nowhere(random: Random, checkpoint: Path) -> str:
    stranger = random.choice([checkpoint, checkpoint / "arrays"]) / f"stranger{random.randrange(100)}"
    stranger.symlink_to("nowhere")
    return stranger.name


def become_a_directory(random: Random, checkpoint: Path) -> str:
    path = _any(random, checkpoint)
    path.unlink()
    path.mkdir()
    return path.name


RANDOM = (
    cut_anywhere, flip_anywhere, zero_a_stretch, lengthen, swap_any_two, take_a_file_of_the_one_before,
    take_the_manifest_of_the_one_before, be_the_one_before, lose_a_file, lose_everything, find_a_stranger, point_nowhere,
    become_a_directory, find_an_empty_directory, find_a_link_to_nowhere,
)  # fmt: skip
"""Each is given a random generator, for what and where."""


def claim_version(checkpoint: Path, version: object) -> None:
    """What another version of the program would have written: not damage."""
    path = checkpoint / MANIFEST
    fields = json.loads(path.read_text()) | {"format_version": version}
    fields.pop("sha256")
    path.write_text(json.dumps(fields | {"sha256": hash_of_fields(fields)}))

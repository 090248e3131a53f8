"""Ways in which a disk or a hand spoils a checkpoint directory; each returns the name of the file to be blamed."""

from pathlib import Path

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

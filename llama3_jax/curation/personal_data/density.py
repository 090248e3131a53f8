"""How dense a text is in personal data."""

import numpy as np

_MARKS = bytes(not chr(byte).isspace() for byte in range(256))


def num_words(text: str) -> int:
    """Of what stands between ASCII blanks: as `len(text.split())` but for other blanks, several times faster."""
    inside = np.frombuffer(b"\0" + text.encode("ascii", "replace").translate(_MARKS), np.uint8)
    return int(np.count_nonzero(inside[1:] > inside[:-1]))


def items_per_1000_words(num_items: int, text: str) -> float:
    return 1000 * num_items / max(1, num_words(text)) if num_items else 0.0

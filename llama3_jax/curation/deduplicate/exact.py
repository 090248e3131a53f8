"""128 bits of a text's content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def content_keys(texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
    """BLAKE2b of each text with its language, white space at both ends aside: uint64, [texts, 2].

    Among 15e9 documents any two different ones agree with a probability of 3e-19.
    """
    digests = bytearray()
    for text, language in zip(texts, languages, strict=True):
        data = f"{language}\0{text.strip()}".encode("utf-8", "surrogatepass")
        digests += hashlib.blake2b(data, digest_size=16).digest()
    return np.frombuffer(bytes(digests), np.uint64).reshape(-1, 2)

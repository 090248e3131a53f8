"""The same page under several spellings of its address."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import numpy as np

_TRACKING = re.compile(r"(?:utm_\w+|gclid|fbclid|dclid|msclkid|yclid|mc_[ce]id|_ga|igshid|ref_src)", re.I)
_DEFAULT_PORT = {"http": 80, "https": 443}
_BYTES = "surrogateescape"
"""Escapes that are no UTF-8 stay the bytes they are."""


def normal_url(url: str) -> str:
    """One spelling of an address: without http or https, `www.`, user, default port, fragment, trailing or doubled slashes,
    dot segments and tracking parameters (utm_*, gclid, fbclid, ...); host in lower case, parameters sorted, escapes in one
    form. The case of path and parameters counts. The rules are ours.

    A URL that cannot be taken apart is itself.
    """
    url = url.strip().encode("utf-8", "backslashreplace").decode()
    try:
        parts = urlsplit(url)
        host, port, scheme = (parts.hostname or "").rstrip("."), parts.port, parts.scheme.lower()
    except ValueError:
        return url
    if not host:
        return url
    host = f"[{host}]" if ":" in host else host.removeprefix("www.") if host.count(".") > 1 else host
    if port is not None and port != _DEFAULT_PORT.get(scheme):
        host += f":{port}"
    if scheme not in ("", *_DEFAULT_PORT):
        host = f"{scheme}://{host}"
    segments: list[str] = []
    for segment in parts.path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(quote(unquote(segment, errors=_BYTES), safe="~!$&'()*+,;=:@", errors=_BYTES))
    pairs = parse_qsl(parts.query, keep_blank_values=True, errors=_BYTES)
    query = urlencode(sorted(pair for pair in pairs if not _TRACKING.fullmatch(pair[0])), errors=_BYTES)
    return "/".join([host, *segments]) + (f"?{query}" if query else "")


def url_keys(urls: Sequence[str]) -> np.ndarray:
    """128 bits of each normalised address: uint64, [urls, 2]; among 15e9, any two differ but for a probability of 3e-19."""
    data = b"".join(hashlib.blake2b(normal_url(url).encode(), digest_size=16).digest() for url in urls)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)

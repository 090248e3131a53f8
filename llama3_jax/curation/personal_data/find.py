"""Where a text has personal data, by kind."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llama3_jax.curation.personal_data import numbers

KINDS = ("email", "phone", "ip", "card", "iban", "national_id")


class Item(NamedTuple):
    """A piece of personal data: its kind and where it stands."""

    kind: str
    start: int
    end: int


_EMAIL = re.compile(
    r"(?<![\w.+%/@-])[A-Za-z0-9][\w.+%-]{0,63}(?:@|\s?\[at\]\s?|\s?\(at\)\s?)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}"
    r"[A-Za-z]{2,24}(?![\w@])"
)
_PHONE = re.compile(
    r"(?<![\w.+/=\\-])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}|\(\d{3}\) ?\d{3}[-. ]\d{4}|"
    r"[2-9]\d{2}-[2-9]\d{2}-\d{4})"
    r"(?![\w=]|[.-]\d)"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{1,4}:)(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:.])")
_DIGITS = re.compile(r"(?<![\w.,/=+\\-])\d(?:[ -]?\d){9,18}(?![\w=]|[.,-]\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_ACCOUNT = re.compile(r"[A-Z]{2}\d{2} $")
"""Before digits that are of an account, right or wrong."""
_SSN = re.compile(r"(?<![\w-])(\d{3})-(\d{2})-(\d{4})(?![\w-])")
_LETTERED = re.compile(
    r"(?<!\w)(?:(?P<italian>[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z])|(?P<spanish>(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z])"
    r"|(?P<british>(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D])"
    r"|(?P<chinese>\d{17}[\dX])|(?P<brazilian>\d{3}\.\d{3}\.\d{3}-\d{2}))(?!\w)"
)
_NUMBERS = re.compile(r"\d(?:[^\d\n]{0,6}\d){3,}|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]+")
"""Digits that stand close enough together to be a number of these kinds, with gaps as in the IBANs of Britain."""
_MARGIN = 40
"""Characters before and after them that may belong to it."""


def find(text: str) -> list[Item]:
    """Everything of the six kinds in order, nothing twice. High precision before recall: numbers without a checksum, a
    country code or a form of their own are taken for numbers."""
    found: list[Item] = []
    if "@" in text or "at]" in text or "at)" in text:
        found += [Item("email", *match.span()) for match in _EMAIL.finditer(text)]
    for start, end in _windows(text):
        for search in (_cards, _ibans, _national_ids, _addresses, _phones):
            found += search(text, start, end)
    found.sort(key=lambda item: (item.start, -item.end))
    kept: list[Item] = []
    for item in found:
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
    return kept


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers may be, apart from one another."""
    window: tuple[int, int] | None = None
    for match in _NUMBERS.finditer(text):
        start, end = max(0, match.start() - _MARGIN), match.end() + _MARGIN
        if window is not None and start > window[1]:
            yield window
            window = None
        window = (start if window is None else window[0], end)
    if window is not None:
        yield window


def _cards(text: str, start: int, end: int) -> Iterator[Item]:
    for match in _DIGITS.finditer(text, start, end):
        digits = re.sub(r"\D", "", match.group())
        if numbers.is_french_nir(digits) or ("-" not in match.group() and numbers.is_german_tax_id(digits)):
            yield Item("national_id", *match.span())
        elif numbers.is_card(digits) and not _ACCOUNT.search(text, max(0, match.start() - 6), match.start()):
            yield Item("card", *match.span())


def _ibans(text: str, start: int, end: int) -> Iterator[Item]:
    for match in _IBAN.finditer(text, start, end):
        signs = match.group().replace(" ", "")
        length = numbers.IBAN_LENGTHS.get(signs[:2], 0)
        if len(signs) >= length and numbers.is_iban(signs[:length]):
            stop, left = match.start(), length
            while left:
                left -= text[stop] != " "
                stop += 1
            yield Item("iban", match.start(), stop)


_CHECKS: dict[str, Callable[[str], bool]] = {
    "italian": numbers.is_italian_code,
    "spanish": lambda said: numbers.is_spanish_dni(said.replace("-", "")),
    "british": lambda said: True,
    "chinese": numbers.is_chinese_id,
    "brazilian": lambda said: numbers.is_brazilian_cpf(re.sub(r"\D", "", said)),
}


def _national_ids(text: str, start: int, end: int) -> Iterator[Item]:
    for match in _SSN.finditer(text, start, end):
        if numbers.is_us_ssn(*match.groups()):
            yield Item("national_id", *match.span())
    for match in _LETTERED.finditer(text, start, end):
        if _CHECKS[match.lastgroup](match.group()):
            yield Item("national_id", *match.span())


def _addresses(text: str, start: int, end: int) -> Iterator[Item]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text, start, end):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            numbered = address.version == 4 and int(match.group().split(".")[0]) < 10  # more often versions and sections
            if address.is_global and not numbered:
                yield Item("ip", *match.span())


def _phones(text: str, start: int, end: int) -> Iterator[Item]:
    for match in _PHONE.finditer(text, start, end):
        if 8 <= sum(sign.isdigit() for sign in match.group()) <= 15:
            yield Item("phone", *match.span())

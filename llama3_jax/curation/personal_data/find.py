"""Where a text has personal data, by kind."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.personal_data.national_ids import NATIONAL_IDS, form
from llama3_jax.curation.personal_data.numbers import IBAN_LENGTHS, is_card, is_iban

KINDS = ("email", "phone", "ip", "card", "iban", "national_id")


class Item(NamedTuple):
    """A piece of personal data: its kind and where it stands."""

    kind: str
    start: int
    end: int


_AT = re.compile(rb"(?<=[\w.+%-])(?:@|\s?\[at\]\s?|\s?\(at\)\s?)(?=[A-Za-z0-9])")
_LOCAL = re.compile(rb"(?<![\w.+%/@-])[A-Za-z0-9][\w.+%-]{0,63}\Z")
_LOCAL_BYTES = 66
_DOMAIN = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}([A-Za-z]{2,24})(?![\w@])")
_FILES = frozenset(b"png jpg jpeg gif svg webp js jsx tsx css json html php".split())
"""Ends of file names that are no top-level domains: image@2x.png."""
_LOGIN = re.compile(rb"://[^\s/@]{0,64}$")
"""Before what is a password and a host."""
_PHONE = re.compile(
    rb"(?<![\w.+/=\\-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}|"
    rb"(?:1[-. ])?(?:\([2-9]\d\d\) ?[2-9]\d\d[-. ]\d{4}|[2-9]\d\d([-.])[2-9]\d\d\1\d{4}))"
    rb"(?![\w=]|[.,-]\d)"
)
_SAID_PHONE = re.compile(
    rb"(?i)(?<!\w)(?:tel(?:e(?:phone|fon|fono|foon|fone))?|phone|fax|mobile|mob|cell|handy|whatsapp|t\?l)s?\b[ .:#]{1,4}"
    rb"(?:(?:no|nr|number)\b[ .:#]{0,3})?(\(?\+?\d[\d ()./-]{5,19}\d)(?![\w=]|[.,-]\d)"
)
_DATE = re.compile(rb"(?:19|20)\d\d[./-]\d\d?[./-]\d\d?|\d\d?[./-]\d\d?[./-](?:19|20)\d\d|\d{4} ?- ?\d{4}")
_IPV4 = re.compile(rb"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_NUMBERED = re.compile(
    rb"(?i)(?:version|ver|v|section|sect?|prop(?:osition)?|th(?:eore)?m|lemma|chapter|corollary|definition|remark|release|build|"
    rb"firmware|oid|revision|update)s?[^\w\n]{0,4}$"
)
"""Before versions and numbers of sections."""
_OCTET = 32
"""An address whose numbers all are smaller is more often a version or a section."""
_IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){2,6}[0-9A-Fa-f]{1,4}(?![\w:.])")
"""Of 2000::/3, the addresses that are given out (RFC 4291)."""
_CARD = re.compile(
    rb"(?<![\w.,/=+\\-])(?:\d{14,16}|\d{19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w=]|[.,-]\d|[ -]\d{3})"
)
_IBAN = re.compile(rb"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_ACCOUNT = re.compile(rb"[A-Z]{2}\d{2} $")
"""Before digits that are of an account, right or wrong."""
_RULES = tuple((rule, form(rule.pattern)) for rule in NATIONAL_IDS)
_ANY_FORM = form(b"|".join(rule.pattern for rule in NATIONAL_IDS))
_MARGIN = 44
"""Characters before and after digits that may belong to them."""
_WORD_BEFORE = 60
"""Characters before a number in which the word may stand that says what it is."""
_NEAR, _LEAST = 16, 6
"""So many digits within so many characters may be a number of these kinds."""


def find(text: str) -> list[Item]:
    """Everything of the six kinds in order, nothing twice. High precision before recall: numbers without a checksum, a
    country code, a form of their own or a word that says what they are, are taken for numbers."""
    data = text.encode("ascii", "replace")  # one byte a character, so that places agree
    found = [*_emails(data)]
    for start, end in _windows(data):
        for search in (_cards, _ibans, _national_ids, _addresses, _phones):
            found += search(data, start, end)
    found.sort(key=lambda item: (item.start, -item.end))
    kept: list[Item] = []
    for item in found:
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
    return kept


def _emails(data: bytes) -> Iterator[Item]:
    for sign in _at_signs(data):
        domain = _DOMAIN.match(data, sign.end())
        if domain is None or domain.group(1).lower() in _FILES:
            continue
        local = _LOCAL.search(data, max(0, sign.start() - _LOCAL_BYTES), sign.start())
        if local is None or local.group() == b"git":
            continue
        if _LOGIN.search(data, max(0, local.start() - _LOCAL_BYTES), local.start()) is None:
            yield Item("email", local.start(), domain.end())


def _at_signs(data: bytes) -> Iterator[re.Match[bytes]]:
    """As `_AT.finditer`, by what is seldom in a text: an expression looks at every sign of it."""
    for written in (b"@", b"[at]", b"(at)"):
        place = data.find(written)
        while place >= 0:
            if (sign := _AT.match(data, place) or _AT.match(data, max(0, place - 1))) is not None:
                yield sign
            place = data.find(written, place + 1)


def _windows(data: bytes) -> Iterator[tuple[int, int]]:
    """Where digits stand close together, dots between digits or colons close together; apart from one another."""
    if len(data) - len(data.translate(None, b"0123456789")) < 4 and data.count(b":") < 3:
        return
    signs = np.frombuffer(data, np.uint8)
    digit = (signs - np.uint8(ord("0"))) < 10  # wraps below
    places = np.flatnonzero(digit)
    marked = []
    if len(places) >= _LEAST:
        near = places[_LEAST - 1 :] - places[: 1 - _LEAST] < _NEAR
        marked.append(places[: 1 - _LEAST][near])
    if len(places) >= 4:
        dots = np.flatnonzero(signs[1:-1] == ord("."))
        dots = dots[digit[dots] & digit[dots + 2]]
        if len(dots) >= 3:
            marked.append(dots[:-2][dots[2:] - dots[:-2] <= 8])
    if data.count(b":") >= 3:
        colons = np.flatnonzero(signs == ord(":"))
        marked.append(colons[:-2][colons[2:] - colons[:-2] <= 10])
    begins = np.sort(np.concatenate(marked)) if marked else np.empty(0, np.int64)
    if not begins.size:
        return
    breaks = np.flatnonzero(np.diff(begins) > 2 * _MARGIN)
    firsts = begins[np.concatenate([[0], breaks + 1])]
    lasts = begins[np.concatenate([breaks, [len(begins) - 1]])]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield max(0, first - _MARGIN), last + _MARGIN


def _cards(data: bytes, start: int, end: int) -> Iterator[Item]:
    for match in _CARD.finditer(data, start, end):
        digits = _signs(match.group())
        if is_card(digits) and not _ACCOUNT.search(data, max(0, match.start() - 6), match.start()):
            if not re.search(rb"\d{3}[ -]$", data[max(0, match.start() - 4) : match.start()]):
                yield Item("card", *match.span())


def _ibans(data: bytes, start: int, end: int) -> Iterator[Item]:
    for match in _IBAN.finditer(data, start, end):
        signs = _signs(match.group())
        length = IBAN_LENGTHS.get(signs[:2], 0)
        if len(signs) >= length and is_iban(signs[:length]):
            stop, left = match.start(), length
            while left:
                left -= data[stop] != ord(" ")
                stop += 1
            yield Item("iban", match.start(), stop)


def _national_ids(data: bytes, start: int, end: int) -> Iterator[Item]:
    if _ANY_FORM.search(data, start, end) is None:
        return
    for rule, alone in _RULES:
        for match in alone.finditer(data, start, end):
            if rule.valid(_signs(match.group())) and (
                rule.said_by is None or rule.said_by.search(data, max(0, match.start() - _WORD_BEFORE), match.start())
            ):
                yield Item("national_id", *match.span())


def _signs(match: bytes) -> str:
    """Letters and digits alone."""
    return re.sub(rb"[^A-Za-z0-9]", b"", match).decode()


def _addresses(data: bytes, start: int, end: int) -> Iterator[Item]:
    for match in _IPV4.finditer(data, start, end):
        octets = [int(part) for part in match.group().split(b".")]
        if max(octets) > 255 or max(octets) < _OCTET or octets[0] < 10:
            continue
        if ipaddress.ip_address(bytes(octets)).is_global and not _NUMBERED.search(
            data, max(0, match.start() - 24), match.start()
        ):
            yield Item("ip", *match.span())
    for match in _IPV6.finditer(data, start, end):
        try:
            if ipaddress.ip_address(match.group().decode()).is_global:
                yield Item("ip", *match.span())
        except ValueError:
            continue


def _phones(data: bytes, start: int, end: int) -> Iterator[Item]:
    for match in _PHONE.finditer(data, start, end):
        if 8 <= len(_signs(match.group())) <= 15:
            yield Item("phone", *match.span())
    for match in _SAID_PHONE.finditer(data, start, end):
        if 7 <= len(_signs(match.group(1))) <= 15 and not _DATE.search(match.group(1)):
            yield Item("phone", *match.span(1))

"""Numbers that states give to people: their form, their check, and the words that must be near where form and check say little.

Each function states its public specification. Where no source is named, it is the one that the European Commission's TIN
portal (taxation_customs/tin) or the OECD's (Automatic Exchange, tax identification numbers) prints for the country.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class NationalId(NamedTuple):
    """A kind of number."""

    country: str
    pattern: bytes
    """Its form, between what `form` puts around it."""
    valid: Callable[[str], bool]
    """Of its letters and digits alone."""
    said_by: re.Pattern[bytes] | None = None
    """A word that must stand shortly before it."""


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _is_day(month: str, day: str) -> bool:
    return "01" <= month <= "12" and "01" <= day <= "31"


def _american(digits: str) -> bool:
    """Areas 000, 666 and from 900, group 00 and serial 0000 are not given (Social Security Administration)."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _british(_: str) -> bool:
    """No check digit; prefixes that are not used are no match (HMRC, NIM39110)."""
    return True


def _german(digits: str) -> bool:
    """ISO 7064 MOD 11,10; of the first ten digits one stands two or three times (BZSt, steuerliche Identifikationsnummer)."""
    if digits[0] == "0" or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def _french(text: str) -> bool:
    """A month, and 97 less the rest by 97; 2A and 2B count as 19 and 18 (INSEE, NIR)."""
    number = text[:13].replace("2A", "19").replace("2B", "18")
    month = int(text[3:5])
    return number.isdigit() and (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and 97 - int(number) % 97 == int(text[13:])


def _spanish(text: str) -> bool:
    """The letter that the rest by 23 names; X, Y, Z are 0, 1, 2 (Orden INT/2058/2008)."""
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(text[:-1].translate(str.maketrans("XYZ", "012"))) % 23] == text[-1]


def _italian(text: str) -> bool:
    """The last letter by the tables of the decree of 23 December 1976 (codice fiscale)."""
    odd = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True))
    letters = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    odd |= dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", letters, strict=True))
    total = sum(odd[sign] if place % 2 == 0 else int(sign, 36) - 10 * sign.isalpha() for place, sign in enumerate(text[:15]))
    return chr(ord("A") + total % 26) == text[15]


def _brazilian(digits: str) -> bool:
    """Two digits that check by 11 (Receita Federal, CPF)."""
    return len(set(digits)) > 1 and all(
        _weighted(digits[:length], range(length + 1, 1, -1)) * 10 % 11 % 10 == int(digits[length]) for length in (9, 10)
    )


_VERHOEFF = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043",
             "8765932104", "9876543210")  # fmt: skip
_PERMUTED = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def _indian(digits: str) -> bool:
    """Verhoeff's check of the dihedral group (Verhoeff 1969; UIDAI, Aadhaar numbering)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_VERHOEFF[check][int(_PERMUTED[place % 8][int(digit)])])
    return check == 0 and len(set(digits)) > 1


def _chinese(text: str) -> bool:
    """A date of birth, and ISO 7064 MOD 11-2 (GB 11643-1999)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return _is_day(text[10:12], text[12:14]) and "10X98765432"[_weighted(text[:17], weights) % 11] == text[17].upper()


def _dutch(digits: str) -> bool:
    """The eleven test, the last digit counting -1 (BSN)."""
    return len(set(digits)) > 1 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _belgian(digits: str) -> bool:
    """97 less the rest by 97 of the first nine, from 2000 on with a 2 before them (Rijksregisternummer)."""
    check = int(digits[9:])
    return any(97 - int(before + digits[:9]) % 97 == check for before in ("", "2"))


def _polish(digits: str) -> bool:
    """Weights 1, 3, 7, 9; months of other centuries are raised by 20 (PESEL)."""
    return 1 <= int(digits[2:4]) % 20 <= 12 and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def _swedish(digits: str) -> bool:
    """Luhn over ten digits (Skatteverket, SKV 704)."""
    return _is_day(digits[-8:-6], digits[-6:-4]) and _luhn(digits[-10:])


def _finnish(text: str) -> bool:
    """The sign that the rest by 31 names (henkilötunnus)."""
    return _is_day(text[2:4], text[:2]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[-4:-1]) % 31] == text[-1]


def _turkish(digits: str) -> bool:
    """Two check digits (T.C. kimlik numarası)."""
    tenth = (7 * _weighted(digits[0:9:2], [1] * 5) - _weighted(digits[1:8:2], [1] * 4)) % 10
    return tenth == int(digits[9]) and _weighted(digits[:10], [1] * 10) % 10 == int(digits[10])


def _korean(digits: str) -> bool:
    """A date of birth and a digit that checks by 11 (resident registration number)."""
    check = (11 - _weighted(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return _is_day(digits[2:4], digits[4:6]) and check == int(digits[12])


def _singaporean(text: str) -> bool:
    """The letter that the rest by 11 names; T and G add 4 (NRIC and FIN)."""
    total = _weighted(text[1:8], (2, 7, 6, 5, 4, 3, 2)) + 4 * (text[0] in "TG")
    return ("JZIHGFEDCBA" if text[0] in "ST" else "XWUTRQPNMLK")[total % 11] == text[8]


def _canadian(digits: str) -> bool:
    """Luhn; none begins with 0 or 8 (Service Canada, SIN)."""
    return digits[0] not in "08" and _luhn(digits)


def _chilean(text: str) -> bool:
    """A sign that checks by 11 (RUT)."""
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(text[:-1])))
    return "0K987654321"[total % 11] == text[-1].upper()


def form(pattern: bytes) -> re.Pattern[bytes]:
    """Where it stands by itself, not as part of a longer number, word or formula."""
    return re.compile(rb"(?<![\w.,/=+-])(?:" + pattern + rb")(?![\w=]|[.,/-]\d)")


def _word(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?i)\b(?:" + pattern + rb")\b")


NATIONAL_IDS: tuple[NationalId, ...] = (
    NationalId("US", rb"\d{3}-\d\d-\d{4}", _american),
    NationalId("GB", rb"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] \d\d \d\d \d\d [A-D]", _british),
    NationalId(
        "GB",
        rb"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{6} ?[A-D]",
        _british,
        _word(rb"national insurance|NINO|NI (?:no|number)"),
    ),
    NationalId(
        "DE", rb"\d{11}|\d\d \d{3} \d{3} \d{3}", _german, _word(rb"steuer\w*|ident\w*nummer|id-?nr|steuer-?id|tax id\w*|tin")
    ),
    NationalId("FR", rb"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", _french),
    NationalId("ES", rb"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", _spanish),
    NationalId("IT", rb"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]", _italian),
    NationalId("BR", rb"\d{3}\.\d{3}\.\d{3}-\d\d", _brazilian),
    NationalId("BR", rb"\d{11}", _brazilian, _word(rb"CPF")),
    NationalId("IN", rb"[2-9]\d{3}(?:[ -]?\d{4}){2}", _indian, _word(rb"a?adhaa?r\w*|uidai?")),
    NationalId("CN", rb"[1-9]\d{5}(?:19|20)\d{9}[\dXx]", _chinese),
    NationalId("NL", rb"\d{9}|\d{4}\.\d\d\.\d{3}", _dutch, _word(rb"BSN|burgerservice\w*|sofi\w*")),
    NationalId("BE", rb"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", _belgian),
    NationalId("PL", rb"\d{11}", _polish, _word(rb"PESEL")),
    NationalId("SE", rb"(?:19|20)?\d{6}[-+]\d{4}", _swedish, _word(rb"person\w*|pnr|p-?nr|national id\w*")),
    NationalId("FI", rb"\d{6}[-A+]\d{3}[0-9A-FHJ-NPR-Y]", _finnish),
    NationalId("TR", rb"[1-9]\d{10}", _turkish, _word(rb"T\.?C\.?|kimlik\w*|vatanda\w*")),
    NationalId("KR", rb"\d{6}-[1-8]\d{6}", _korean),
    NationalId("SG", rb"[STFG]\d{7}[A-Z]", _singaporean),
    NationalId("CA", rb"\d{3}[ -]\d{3}[ -]\d{3}", _canadian, _word(rb"SIN|social insurance|NAS")),
    NationalId("CL", rb"\d{1,2}\.\d{3}\.\d{3}-[\dKk]", _chilean),
)

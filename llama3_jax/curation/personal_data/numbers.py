"""Numbers of people and of their money that check themselves."""

from __future__ import annotations

import re

IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI NL",
        19: "SI",
        20: "AT EE KZ LT LU",
        21: "CH HR LI LV",
        22: "BG DE GB IE RS",
        23: "AE IL",
        24: "AD CZ ES RO SA SE SK TN",
        25: "PT",
        26: "IS TR",
        27: "FR GR IT MC SM",
        28: "CY HU PL",
        29: "BR QA UA",
        30: "KW",
        31: "MT",
    }.items()
    for country in countries.split()
}
_CARD_BEGINNING = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)|3[47]|6(?:011|5|4[4-9])|35(?:2[89]|[3-8]\d)|3(?:0[0-5]|[68])|62"
)


def is_card(digits: str) -> bool:
    """A payment card: an issuer's beginning, its length, and the check digit of Luhn (ISO/IEC 7812-1)."""
    if not 13 <= len(digits) <= 19 or not _CARD_BEGINNING.match(digits) or len(set(digits)) < 2:
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """An IBAN: the length of its country, 97 divides (ISO 13616)."""
    if len(text) != IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def is_us_ssn(area: str, group: str, serial: str) -> bool:
    """A number that the US Social Security Administration may have given."""
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_french_nir(digits: str) -> bool:
    """The 13 digits of a French NIR with its key: 97 less the rest by 97."""
    return len(digits) == 15 and digits[0] in "12" and 97 - int(digits[:13]) % 97 == int(digits[13:])


def is_spanish_dni(text: str) -> bool:
    """Eight digits, or X, Y, Z and seven, with the letter that the rest by 23 names."""
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def is_brazilian_cpf(digits: str) -> bool:
    """Nine digits and two that check them by 11."""
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for length in (9, 10):
        rest = sum(int(digit) * weight for digit, weight in zip(digits, range(length + 1, 1, -1), strict=False)) * 10 % 11 % 10
        if rest != int(digits[length]):
            return False
    return True


def is_italian_code(text: str) -> bool:
    """A codice fiscale, by its last letter (Decree of 12 March 1974)."""
    values = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    odd = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", values, strict=True)) | dict(zip("0123456789", values, strict=False))
    total = sum(odd[sign] if place % 2 == 0 else int(sign, 36) - 10 * sign.isalpha() for place, sign in enumerate(text[:15]))
    return chr(ord("A") + total % 26) == text[15]


def is_chinese_id(text: str) -> bool:
    """A resident identity number (GB 11643-1999): a date of birth and ISO 7064 MOD 11-2."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    if not ("1900" <= text[6:10] <= "2099" and "01" <= text[10:12] <= "12" and "01" <= text[12:14] <= "31"):
        return False
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(text[:17], weights, strict=True)) % 11] == text[17]


def is_german_tax_id(digits: str) -> bool:
    """Eleven digits by ISO 7064 MOD 11,10, one of the first ten twice or thrice."""
    if len(digits) != 11 or digits[0] == "0" or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])

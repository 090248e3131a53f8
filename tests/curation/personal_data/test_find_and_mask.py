"""Personal data: each kind is found wherever it stands, numbers that are something else are left, masking is done once."""

import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.personal_data.apply import PersonalData, apply
from llama3_jax.curation.personal_data.density import num_words
from llama3_jax.curation.personal_data.find import _AT, KINDS, _at_signs, find
from llama3_jax.curation.personal_data.national_ids import NATIONAL_IDS

FOUND = [
    ("email", "jane.doe+x@mail.example.co.uk"), ("email", "me [at] example.com"), ("email", "a_b@x-y.museum"),
    ("phone", "+44 20 7946 0958"), ("phone", "+1-212-555-0187"), ("phone", "(212) 555-0187"), ("phone", "212-555-0187"),
    ("phone", "212.555.0187"), ("phone", "1-800-555-0199"), ("phone", "+49 (0)30 901820"), ("phone", "+8613800138000"),
    ("ip", "93.184.216.34"), ("ip", "2606:2800:220:1:248:1893:25c8:1946"), ("ip", "2606:2800::1"),
    ("card", "4111 1111 1111 1111"), ("card", "378282246310005"), ("card", "5555-5555-5555-4444"), ("card", "3782 822463 10005"),
    ("card", "6011000990139424"), ("card", "3530111333300000"),
    ("iban", "DE89 3704 0044 0532 0130 00"), ("iban", "GB29NWBK60161331926819"), ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban", "NO93 8601 1117 947"), ("iban", "MT84 MALT 0110 0001 2345 MTLC AST0 01S"), ("iban", "SA03 8000 0000 6080 1016 7519"),
    ("national_id", "078-05-1120"), ("national_id", "AB 12 34 56 C"), ("national_id", "255081416802538"),
    ("national_id", "2 55 08 14 168 025 38"), ("national_id", "12345678Z"), ("national_id", "X1234567L"),
    ("national_id", "RSSMRA85T10A562S"), ("national_id", "529.982.247-25"), ("national_id", "11010519491231002X"),
    ("national_id", "85.07.30-033.28"), ("national_id", "131052-308T"), ("national_id", "S1234567D"),
    ("national_id", "12.345.678-5"), ("national_id", "900101-1234568"),
]  # fmt: skip
SAID = [
    ("phone", "Tel.: ", "020 7946 0958"), ("phone", "Phone: ", "01 23 45 67 89"), ("phone", "fax no. ", "(030) 90 18 20"),
    ("national_id", "NINO ", "AB123456C"), ("national_id", "Steuer-ID: ", "86095742719"), ("national_id", "CPF ", "52998224725"),
    ("national_id", "Aadhaar no. ", "2341 2341 2346"), ("national_id", "BSN ", "111222333"),
    ("national_id", "PESEL ", "44051401359"),
    ("national_id", "personnummer ", "811228-9874"), ("national_id", "TC kimlik no ", "10000000146"),
    ("national_id", "SIN ", "130 692 544"),
]  # fmt: skip
LEFT = [
    "version 93.184.216.34", "1.2.3.4 and 10.0.0.1 and 127.0.0.1 and 192.168.3.77", "Proposition 12.1.1.5", "see 12.1.1.5 there",
    "1.3.6.1.4.1.311", "256.300.1.1", "fe80::1 and ::1 and 2001:db8::1", "std::vector::at::x", "12:34:56:78", "00:1a:2b:3c:4d:5e",
    "4111 1111 1111 1112", "5 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "pi is 3.14159265358979323846", "x = 1234567890123456",
    "DE89 3704 0044 0532 0130 01", "000-12-3456 and 666-12-3456 and 900-12-3456", "12345678A", "86095742719", "52998224725",
    "AB123456C", "2341 2341 2346", "529.982.247-26",
    "a@b", "decorator @property.setter", "icon@2x.png", "git@github.com:me/x.git",
    "https://user:pass@host.example.com/", "in 1939-1945 and 2001-09-11", "Tel Aviv 1948-1967", "tel: 2001-09-11",
    "1,234,567,890.00", "ISBN 978-3-16-148410-0", "section 2.3.4.5", "x +12 345", "%+014.0f gives +000000000100",
    "deadbeef4111111111111111cafe", "3.4111111111111111", "100-200-3000", "[0-9]{3}-[0-9]{2}-[0-9]{4}",
    "1234567890123456789012345", "2024-01-01T00:00:00Z 1704067200000",
]  # fmt: skip


@pytest.mark.parametrize("kind, item", FOUND)
def test_each_kind_is_found_wherever_it_stands(kind, item):
    for before, after in [
        ("", ""),
        ("write or call ", " today"),
        ("(", ")"),
        ("x: ", ", y"),
        ("请联系", "。"),
        ("le “", "”."),
        ("\n", "\n"),
    ]:
        text = f"{before}{item}{after}"
        assert [(found.kind, text[found.start : found.end]) for found in find(text)] == [(kind, item)], text


@pytest.mark.parametrize("kind, before, item", SAID)
def test_numbers_without_a_form_of_their_own_need_a_word_before_them(kind, before, item):
    text = f"My {before}{item} as of today"
    assert [(found.kind, text[found.start : found.end]) for found in find(text)] == [(kind, item)]
    assert find(f"My {item} as of today") == []


@pytest.mark.parametrize("text", LEFT)
def test_numbers_that_are_something_else_are_left(text):
    assert find(text) == []


def test_a_wrong_digit_is_no_number_of_those_that_check_themselves():
    checked = [(kind, item) for kind, item in FOUND if kind in ("card", "iban") or item in ("529.982.247-25", "255081416802538")]
    for _, item in checked:
        digits = [place for place, sign in enumerate(item) if sign.isdigit() and place > 3]
        for place in digits:
            wrong = item[:place] + str((int(item[place]) + 1) % 10) + item[place + 1 :]
            assert find(wrong) == [], wrong


def test_every_national_number_here_is_tried():
    tried = [item for kind, _, item in [*((k, "", i) for k, i in FOUND), *SAID] if kind == "national_id"]
    signs = [re.sub("[^A-Za-z0-9]", "", item) for item in tried]
    for rule in NATIONAL_IDS:
        alone = re.compile(rule.pattern)
        assert any(alone.fullmatch(item.encode()) and rule.valid(sign) for item, sign in zip(tried, signs, strict=True)), (
            rule.country
        )


@given(st.text(), st.sampled_from([item for _, item in FOUND]), st.text())
def test_masking_is_done_once_and_keeps_the_rest(before, item, after):
    text = f"{before} ; {item} ; {after}"
    settings = PersonalData(max_items_per_1000_words=None)
    masked, counts, reason, _ = apply(text, settings)
    assert reason is None and sum(counts.values()) == len(find(text)) >= 1
    assert masked.startswith(text[: find(text)[0].start]) and masked.endswith(text[find(text)[-1].end :])
    again, counts, _, _ = apply(masked, settings)
    assert again == masked and not any(counts.values())


@given(st.text(alphabet="0123456789 -.:+()@abfAB\n/"))
def test_no_numbers_are_fatal_and_none_are_found_twice(text):
    items = find(text)
    assert all(item.kind in KINDS and 0 <= item.start < item.end <= len(text) for item in items)
    assert all(first.end <= second.start for first, second in zip(items, items[1:], strict=False))


def test_places_are_those_of_the_text_beyond_ascii():
    text = "Ünïcödé 🙂 漢字 \ud800 jane@example.org 🙂 +44 20 7946 0958 ٠١٢٣٤٥٦٧٨٩"
    assert [text[item.start : item.end] for item in find(text)] == ["jane@example.org", "+44 20 7946 0958"]


def test_kinds_can_be_kept_or_cost_the_document():
    text = "jane@example.org and 078-05-1120"
    assert apply(text, PersonalData(email="keep"))[0] == "jane@example.org and <national_id>"
    assert apply(text, PersonalData(national_id="drop"))[2:] == ("personal_data.national_id", 1.0)
    directory = "\n".join(f"person{n}@example.org" for n in range(30))
    assert apply(directory, PersonalData())[2] == "personal_data.density"
    assert apply(directory, PersonalData(max_items_per_1000_words=None))[0].count("<email>") == 30


LONG = ["9", "1 ", "a@", "1.1.1.", "1:2:", "+1-", "A1", "(at)", "4111 ", "GB29NWBK", "tel 1", "a.b@c.", "12345678-", "+49 30 "]


@pytest.mark.parametrize("text", LONG)
def test_no_text_takes_long(text):
    began = time.process_time()
    find(text * (300_000 // len(text)))
    assert time.process_time() - began < 3


@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="LLAMA3_JAX_DATA names no data directory")
@pytest.mark.parametrize("mix, most", [("math", 1.5), ("code", 12.0)])
def test_mathematics_and_code_are_hardly_touched(mix, most):
    """Items a million characters; what there is, are addresses of authors and examples of validators."""
    with gzip.open(Path(os.environ["LLAMA3_JAX_DATA"], "pretrain_mix", f"{mix}.jsonl.gz"), "rt") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(1500), file, strict=False)]
    items = [item.kind for text in texts for item in find(text)]
    size = sum(map(len, texts)) / 1e6
    assert len(items) / size < most
    assert len([kind for kind in items if kind != "email"]) / size < 1.0


@given(st.lists(st.sampled_from(["a", "@", " ", "[at]", "(at)", "."]), min_size=5, max_size=20).map("".join))
def test_signs_of_mail_are_found_one_by_one_as_by_the_expression(text):
    data = text.encode()
    assert sorted(sign.span() for sign in _at_signs(data)) == [sign.span() for sign in _AT.finditer(data)]


@given(st.text(alphabet="ab? \t\n\v\f\r\x1c\x1f_\u00e9", max_size=40))
def test_words_are_those_between_blanks(text):
    assert num_words(text) == len(text.split())

"""Personal data: what is found, what is not, and what becomes of it; domains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.domains import DomainDensity, DomainLists, registered_domain
from llama3_jax.curation.personal_data.apply import PersonalData, apply
from llama3_jax.curation.personal_data.find import find


@pytest.mark.parametrize(
    "text, kind",
    [
        ("write to jane.doe+x@mail.example.co.uk now", "email"),
        ("me [at] example.com", "email"),
        ("call +44 20 7946 0958 today", "phone"),
        ("call (212) 555-0187", "phone"),
        ("at 212-555-0187.", "phone"),
        ("host 93.184.216.34 is up", "ip"),
        ("from 2606:2800:220:1:248:1893:25c8:1946 it came", "ip"),
        ("card 4111 1111 1111 1111", "card"),
        ("card 378282246310005", "card"),
        ("IBAN DE89 3704 0044 0532 0130 00", "iban"),
        ("GB29NWBK60161331926819", "iban"),
        ("SSN 078-05-1120", "national_id"),
        ("CPF 529.982.247-25", "national_id"),
        ("DNI 12345678Z", "national_id"),
        ("RSSMRA85T10A562S", "national_id"),
        ("11010519491231002X", "national_id"),
        ("NINO QQ 12 34 56 C or AB 12 34 56 C", "national_id"),
        ("NIR 255081416802538", "national_id"),
    ],
)
def test_each_kind_is_found(text, kind):
    assert kind in [item.kind for item in find(text)]


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 and 10.0.0.1 and 127.0.0.1",
        "4111 1111 1111 1112",
        "pi is 3.14159265358979323846",
        "in 1939-1945 and 2001-09-11",
        "DE89 3704 0044 0532 0130 01",
        "000-12-3456",
        "12345678A",
        "a@b",
        "decorator @property.setter",
        "x = 1234567890123456",
        "std::vector::at",
        "12:34:56",
        "1,234,567,890.00",
        "ISBN 978-3-16-148410-0",
        "section 2.3.4.5",
        "529.982.247-26",
    ],
)
def test_numbers_that_are_something_else_are_left(text):
    assert find(text) == []


@given(st.text())
def test_masking_is_done_once_and_keeps_the_rest(text):
    text = f"{text} jane@example.org "
    masked, counts, reason, _ = apply(text, PersonalData(max_items_per_1000_words=None))
    assert reason is None
    assert "jane@example.org" not in masked
    again, counts_again, _, _ = apply(masked, PersonalData(max_items_per_1000_words=None))
    assert again == masked and sum(counts_again.values()) == 0


def test_kinds_can_be_kept_or_cost_the_document():
    text = "jane@example.org and 078-05-1120"
    assert apply(text, PersonalData(email="keep"))[0] == "jane@example.org and <national_id>"
    assert apply(text, PersonalData(national_id="drop"))[2:] == ("personal_data.national_id", 1.0)
    directory = "\n".join(f"person{n}@example.org" for n in range(30))
    assert apply(directory, PersonalData())[2] == "personal_data.density"


@pytest.mark.parametrize(
    "url, domain",
    [
        ("https://www.example.co.uk/x", "example.co.uk"),
        ("http://a.b.example.com:80/", "example.com"),
        ("https://me.github.io/a", "me.github.io"),
        ("http://10.1.2.3/a", "10.1.2.3"),
        ("nonsense", ""),
        ("http://[broken", ""),
    ],
)
def test_registered_domains(url, domain):
    assert registered_domain(url) == domain


def test_lists_and_densities(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# comment\n0.0.0.0 bad.example\nworse.org # why\n")
    lists = DomainLists({"adult": str(path)})
    assert lists.listed("https://www.bad.example/a") == ("adult", "bad.example")
    assert lists.listed("https://notbad.example/") is None
    path.write_text("two words!\n")
    with pytest.raises(ValueError, match=r"list\.txt:1"):
        DomainLists({"x": str(path)})
    totals = {"a.org": (50, 10_000, 200), "b.org": (50, 10_000, 2), "few.org": (3, 100, 90)}
    assert DomainDensity().too_dense(totals) == {"a.org": 20.0}

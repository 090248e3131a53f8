"""Domains: who registered a host, which are listed, which are dense in personal data."""

import gzip
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.domains import DomainDensity, DomainLists, host, read_domains, registered_domain


@pytest.mark.parametrize(
    "url, domain",
    [
        ("https://www.example.co.uk/x?y=http://other.org", "example.co.uk"),
        ("http://a.b.example.com:80/", "example.com"),
        ("HTTP://User:Pass@News.Example.COM./", "example.com"),
        ("https://mail.web.de/", "web.de"),
        ("https://www.gov.uk/", "www.gov.uk"),
        ("https://dept.gov.uk/", "dept.gov.uk"),
        ("https://www.u-tokyo.ac.jp/", "u-tokyo.ac.jp"),
        ("https://me.github.io/a", "me.github.io"),
        ("https://github.io/a", "github.io"),
        ("https://a.me.blogspot.co.uk/", "me.blogspot.co.uk"),
        ("https://me.blogspot.com/", "me.blogspot.com"),
        ("https://en.wikipedia.org/wiki/X", "wikipedia.org"),
        ("http://10.1.2.3/a", "10.1.2.3"),
        ("http://[2606:2800::1]/a", "2606:2800::1"),
        ("https://www.bücher.de/", "xn--bcher-kva.de"),
        ("www.example.com/page", "example.com"),
        ("nonsense", ""),
        ("urn:isbn:1", ""),
        ("http://[broken", ""),
        ("", ""),
    ],
)
def test_registered_domains(url, domain):
    assert registered_domain(url) == domain


@given(st.text())
def test_no_url_is_fatal(text):
    for url in (text, f"http://{text}", f"https://{text}.com/"):
        assert host(url).endswith(registered_domain(url))


@pytest.mark.oracle
def test_the_public_suffix_list_agrees_about_every_suffix_here():
    tldextract = pytest.importorskip("tldextract")
    from llama3_jax.curation.domains import _UNDER

    known = tldextract.TLDExtract(suffix_list_urls=(), include_psl_private_domains=True, cache_dir=None)
    wrong = [
        f"{name}.{country}"
        for country, names in _UNDER.items()
        for name in names
        if known(f"a.b.{name}.{country}").suffix != f"{name}.{country}"
    ]
    assert not wrong


def test_a_listed_domain_stands_for_all_below_it(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(
        "\ufeff# comment\n0.0.0.0 bad.example\t# why\n127.0.0.1 localhost\n::1 ip6-localhost two.example three.example\n\n"
        "Worse.ORG\n*.wild.net\nбад.рф\n"
    )
    lists = DomainLists({"adult": str(path)})
    for url in ("https://www.bad.example/a", "http://bad.example:8080", "https://a.b.worse.org/", "https://x.wild.net",
                "http://two.example/", "http://three.example/", "https://бад.рф/x"):  # fmt: skip
        assert lists.listed(url) is not None, url
    for url in ("https://notbad.example/", "https://bad.example.org/", "http://localhost/", "", "nonsense", "https://example/"):
        assert lists.listed(url) is None, url
    assert lists.listed("https://www.bad.example/a") == ("adult", "bad.example")


def test_lists_are_told_apart_and_read_compressed(tmp_path):
    (tmp_path / "a.txt").write_text("one.org\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"one.org\ntwo.org\n"))
    lists = DomainLists({"first": str(tmp_path / "a.txt"), "second": str(tmp_path / "b.gz")})
    assert lists.listed("http://one.org/") == ("first", "one.org")
    assert lists.listed("http://two.org/") == ("second", "two.org")


def test_a_list_that_changes_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one.org\n")
    assert read_domains(str(path)) == {"one.org"}
    path.write_text("three.org\n")
    assert read_domains(str(path)) == {"three.org"}


@pytest.mark.parametrize("line", ["two words!", "a/b", "||ads.example^", "-x.org", "xn--\u2028.de"])
def test_a_line_that_is_no_domain_is_named(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"fine.org\n{line}\n")
    with pytest.raises(ValueError, match=r"list\.txt:2"):
        read_domains(str(path))


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DomainLists({"x": str(tmp_path / "nothing")})


def test_looking_up_does_not_depend_on_the_length_of_the_list(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"site{n}.example\n" for n in range(200_000)))
    lists = DomainLists({"long": str(path)})
    began = time.process_time()
    found = [lists.listed(f"https://a.b.site{n}.example/page") for n in range(0, 400_000, 40)]
    assert time.process_time() - began < 2
    assert sum(item is not None for item in found) == 5_000


def test_dense_domains_are_those_with_enough_documents():
    totals = {"a.org": (50, 10_000, 200), "b.org": (50, 10_000, 2), "few.org": (3, 100, 90), "empty.org": (50, 0, 0)}
    assert DomainDensity().too_dense(totals) == {"a.org": 20.0}
    assert DomainDensity(min_documents=1).too_dense(totals) == {"a.org": 20.0, "few.org": 900.0}

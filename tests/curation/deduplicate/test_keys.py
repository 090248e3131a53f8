"""Keys of contents and addresses, and the version that stays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.deduplicate.exact import content_keys
from llama3_jax.curation.deduplicate.urls import normal_url, url_keys


def test_a_content_is_its_text_and_language():
    texts = ["a", " a\n", "a", "A", "a  b", "a b", "", "漢", "😀", "\ud800"]
    keys = content_keys(texts, ["en", "en", "de", *["en"] * 7])
    assert keys.shape == (10, 2)
    assert keys.dtype == np.uint64
    assert (keys[0] == keys[1]).all()
    assert len(np.unique(keys, axis=0)) == 9
    assert content_keys([], []).shape == (0, 2)


def test_language_and_text_do_not_run_together():
    keys = content_keys(["nb", "b"], ["e", "en"])
    assert (keys[0] != keys[1]).any()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a/b?x=1&y=2",
        "https://www.example.com/a/b/?y=2&x=1#part",
        "HTTP://WWW.Example.COM:80/a//b?utm_source=n&x=1&y=2&fbclid=z",
        "//example.com/a/c/../b?x=1&y=2",
        "https://me:secret@example.com:443/%61/./b?x=%31&y=2 ",
        "https://example.com./a/b?x=1&y=2",
    ],
)
def test_spellings_of_one_address(url):
    assert normal_url(url) == "example.com/a/b?x=1&y=2"


@pytest.mark.parametrize(
    "one, other",
    [
        ("http://example.com/a", "http://example.com/A"),
        ("http://example.com/a", "http://example.com:8080/a"),
        ("http://example.com/?q=%E9", "http://example.com/?q=%E8"),
        ("http://example.com/%E9", "http://example.com/%E8"),
        ("http://example.com/?q=1", "http://example.com/?q=2"),
        ("http://example.com/?q=", "http://example.com/"),
        ("http://example.com/a%2Fb", "http://example.com/a/b"),
        ("http://example.com/a%3Fb", "http://example.com/a?b"),
        ("http://[::1]:80/", "http://[::1:80]/"),
        ("ftp://example.com/a", "http://example.com/a"),
        ("http://www.com/", "http://com/"),
        ("mailto:a@example.com", "mailto:b@example.com"),
        ("http://[broken", "http://[other"),
        ("", "http://example.com"),
    ],
)
def test_different_addresses(one, other):
    keys = url_keys([one, other])
    assert (keys[0] != keys[1]).any()


@given(st.text(max_size=40), st.text(alphabet="/.?#&=%:@[]w\ud800é漢a1 ;", max_size=20))
def test_any_text_has_a_key(anything, rest):
    assert url_keys([anything, f"http://{rest}", f"https://e.org/{rest}"]).shape == (3, 2)


@given(st.text(alphabet="/.?#&=%2Fab é+~", max_size=20))
def test_a_normal_address_stays_as_it_is(rest):
    normal = normal_url(f"http://e.org/{rest}")
    assert normal_url(f"http://{normal}") == normal

"""Main text of pages: what stays, what goes, and that anything at all gives text or nothing."""

import collections
import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.extract.extract import extract
from llama3_jax.curation.extract.main_text import main_text
from llama3_jax.curation.extract.settings import Extraction
from llama3_jax.curation.read.raw import Limits, Raw
from llama3_jax.curation.read.read import find_inputs, read

SENTENCE = "The harbour was quiet in the early morning, and only a few boats had left for the open sea before the storm. "


def text_of(body):
    menu = "<nav><a href='/'>Home page</a> <a href='/b'>Sections</a></nav>"
    page = f"<html><body>{menu}<article>{body}</article></body></html>"
    return main_text(page.encode(), "utf-8")


def test_boilerplate_goes_and_content_stays():
    text = text_of(
        f"<h1>A title</h1><p>{SENTENCE * 3}</p><div class='share-buttons'>Share on Twitter</div><h2>Second "
        f"part</h2><ul><li>one thing</li>"
        f"<li>another thing</li></ul><blockquote>{SENTENCE}</blockquote><div "
        f"style='display:none'>secret</div><script>var x;</script>"
        "<div id='related-posts'><a href='/1'>You may also like</a></div>"
    )
    assert text.startswith("A title\n\nThe harbour")
    for kept in ("Second part", "one thing\nanother thing"):
        assert kept in text
    for gone in ("Home page", "Share on", "secret", "var x", "also like"):
        assert gone not in text
    assert not re.search(r"^[#*>-] |\*\*|\]\(", text, re.M)


def test_code_keeps_lines_and_indentation_without_gutters():
    code = "def f(x):\n    if x:\n        return 1\n    return 2"
    text = text_of(
        f"<p>{SENTENCE * 4}</p><table class='highlighttable'><tr><td class='linenos'><pre>1\n2\n3\n4</pre></td><td "
        f"class='code'><pre>"
        "<span class='k'>def</span> <span>f</span>(x):\n    <b>if</b> x:\n        return 1\n    return "
        "2\n</pre></td></tr></table>"
        "<pre>a &lt; b<br>&nbsp;&nbsp;c</pre>"
    )
    assert code in text
    assert "1\n2\n3" not in text
    assert "a < b\n  c" in text


@pytest.mark.parametrize(
    "html, formula",
    [
        (
            r"<math><semantics><mi>x</mi><annotation encoding='application/x-tex'>x^2 &lt; "
            r"\alpha</annotation></semantics></math>",
            r"$x^2 < \alpha$",
        ),
        (r"<script type='math/tex'>\frac{a}{b}</script>", r"$\frac{a}{b}$"),
        (r"<script type='math/tex; mode=display'>\sum_i x_i</script>", r"$$\sum_i x_i$$"),
        (r"<img class='latex' alt='E = mc^2' src='a.png'>", "$E = mc^2$"),
        (r"<img src='https://s0.wp.com/latex.php?latex=x_1' alt='x_1' class='latex'>", "$x_1$"),
        (r"<img src='/cgi-bin/mimetex.cgi?\sqrt{2}&lt;z'>", r"$\sqrt{2}<z$"),
        (r"<img src='/cgi-bin/mimetex.cgi?\alpha(f(x) ) = \alpha(x)+1'>", r"$\alpha(f(x) ) = \alpha(x)+1$"),
        (r"<img src='/cgi-bin/mimetex.cgi?x+1'>", "$x+1$"),
        (r"<img src='https://s0.wp.com/latex.php?zoom=2&latex=a%2Bb+c&bg=ffffff' alt=''>", "$a+b c$"),
        (
            r"<span class='katex'><span class='katex-mathml'><math><semantics><mi>y</mi><annotation "
            r"encoding='application/x-tex'>y_1"
            r"</annotation></semantics></math></span><span class='katex-html' aria-hidden='true'>y1</span></span>",
            "$y_1$",
        ),
        (r"<math><mfrac><mi>a</mi><mi>b</mi></mfrac><mo>=</mo><msup><mi>c</mi><mn>2</mn></msup></math>", r"$\frac{a}{b}=c^2$"),
        (r"\(\int f\)", r"\(\int f\)"),
    ],
)
def test_formulas_keep_their_source(html, formula):
    text = text_of(f"<p>{SENTENCE * 3}</p><p>It is {html} as said.</p>")
    assert f"It is {formula} as said." in text


@pytest.mark.parametrize(
    "image",
    [
        "<img src='/context?size=large' alt='A boat'>", "<img src='/chart?id=5'>",
        "<img src='/images/math/teacher.jpg' alt='Our teacher'>", "<img src='vertex?x_1' alt=''>",
    ],
)  # fmt: skip
def test_images_of_other_things_are_no_formulas(image):
    assert "$" not in text_of(f"<p>{SENTENCE * 3}</p><p>A picture {image} of it, and also a sentence.</p>")


def test_signs_that_stand_for_formulas_may_be_in_the_page():
    text = text_of(f"<p>{SENTENCE * 3} \ue00099\ue001 and \ue0000\ue001</p><script type='math/tex'>x_1</script>")
    assert "$x_1$" in text and text.count("$") == 2


def test_a_page_of_very_many_articles_takes_no_longer_for_it():
    article = b"<article class='post-content'><p>A sentence of its own, with some words.</p></article>"
    start = time.process_time()
    main_text(b"<body>" + article * 20_000, "utf-8")
    assert time.process_time() - start < 20


def test_what_explains_long_code_stays_with_it():
    code = "\n".join(f"    value_{n} = compute(value_{n - 1}, {n})  # a long line of a long example" for n in range(60))
    said = "It computes one value from the one before."
    page = f"<body><h2>An example</h2><p>{said}</p><div class='ex'><pre>{code}</pre></div></body>"
    assert main_text(page.encode(), "utf-8").startswith(f"An example\n\n{said}\n\n    value_0 =")


def test_what_is_said_twice_in_a_row_is_said_once():
    """As captions of galleries are; not code, not rows, not short lines, and not where a page consists of it."""
    caption = "The mayor, left, shakes hands with the director of the museum on the stairs of the old hall, Tuesday"
    prose = "".join(f"<p>{'Of the river and the hills there is much more to be told. ' * 4}{n}</p>" for n in range(9))
    row, code = f"<tr><td>{caption}</td><td>7</td></tr>", f"<pre>{caption}\n{caption}</pre>"
    page = f"<p>{caption}</p><p>{caption}</p><p>Close</p><p>Close</p><table>{row}{row}</table>{code}{prose}"
    text = text_of(page)
    assert text.count(caption) == 1 + 2 + 2 and text.count("Close") == 2
    assert text_of(f"<p>{caption}</p>" * 3).count(caption) == 3


def test_tables_are_a_row_a_line():
    text = text_of(f"<p>{SENTENCE * 3}</p><table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>31</td></tr></table>")
    assert "Name\tAge\nAnn\t31" in text


def test_other_languages_and_pages_of_nothing_but_links_give_text():
    japanese = "港は早朝で静かでした。船は数隻だけが出ていました。" * 6
    assert japanese in text_of(f"<p>{japanese}</p>")
    assert "About us" in main_text(b"<body><ul><li><a href=/>About us</a><li><a href=/c>Contact</a></ul></body>", "utf-8")


def test_trafilatura_can_be_chosen():
    page = f"<html><body><article><p>{SENTENCE * 5}</p></article></body></html>".encode()
    assert SENTENCE.strip() in extract(page, "utf-8", Extraction(extractor="trafilatura"))


PARTS = st.sampled_from(
    "<div> </div> <p> </p> <pre> </pre> <table><tr><td> </table> <math> </math> <script> </script> <br> <svg><p> <![CDATA[ "
    "<!-- --> &amp; &#xD800; \0 <a\xa0href=' '> text \ue000 <noscript><div> <select><p>".split(" ")
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PARTS | st.text(max_size=8), max_size=60).map("".join),
    st.sampled_from(["utf-8", "latin-1", "utf-16", "shift_jis"]),
)
def test_anything_gives_a_string(page, encoding):
    assert isinstance(main_text(page.encode("utf-8", "replace"), encoding), str)


def test_time_grows_with_the_page_alone():
    def seconds(count):
        page = ("<div><p>some words here</p>" * count + "</div>" * count).encode()
        start = time.process_time()
        main_text(page, "utf-8")
        return time.process_time() - start

    seconds(10)
    assert seconds(900) < 60 * max(seconds(90), 0.002)


@pytest.mark.slow
@pytest.mark.skipif("LLAMA3_JAX_DATA" not in os.environ, reason="LLAMA3_JAX_DATA is not set: no gold pages")
def test_gold_pages_are_clean_and_complete_at_once():
    root = Path(os.environ["LLAMA3_JAX_DATA"]) / "web"
    texts = {}
    for raw in read(find_inputs([str(root / "pages_a.warc.gz")])[0], Limits()):
        assert isinstance(raw, Raw)
        texts[raw.id] = main_text(raw.body, raw.encoding)
    assert sum(not text.strip() for text in texts.values()) <= 1
    precision, recall = [], []
    for line in gzip.open(root / "pages_a.gold.jsonl.gz", "rt"):
        gold = json.loads(line)
        if gold["gold_type"] == "article_body" and gold["text"].strip():
            wanted, found = shingles(gold["text"]), shingles(texts[gold["record_id"].strip("<>")])
            both = (wanted & found).total()
            precision.append(both / max(1, found.total()))
            recall.append(both / wanted.total())
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    assert 2 * p * r / (p + r) >= 0.955


def shingles(text):
    words = re.findall(r"\w+", text)
    return collections.Counter(tuple(words[n : n + 4]) for n in range(max(1, len(words) - 3)))

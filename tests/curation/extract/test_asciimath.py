"""AsciiMath becomes the TeX that its grammar says."""

from __future__ import annotations

import pytest

pytest.importorskip("resiliparse")

from llama3_jax.curation.extract.asciimath import tex_of_asciimath  # noqa: E402
from llama3_jax.curation.extract.main_text import main_text  # noqa: E402


@pytest.mark.parametrize(
    ("source", "tex"),
    [
        ("x=(-b +- sqrt(b^2 - 4ac))/(2a)", r"x = \frac{- b \pm \sqrt{b^{2} - 4 a c}}{2 a}"),
        ("sum_(k=1)^n k", r"\sum_{k = 1}^{n} k"),
        ("((a,b),(c,d))", r"\left(\begin{matrix}a & b \\ c & d\end{matrix}\right)"),
        ("|x| < 1", r"\left|x\right| < 1"),
        ('"area" = pi r^2', r"\text{area} = \pi r^{2}"),
        ("root(3)(y)", r"\sqrt[3]{y}"),
        ("a)", "a )"),
        ("{x | x > 0}", r"\left\{x | x > 0\right\}"),
        ("", ""),
    ],
)
def test_a_formula_as_tex(source, tex):
    assert tex_of_asciimath(source) == tex


def test_backticks_are_formulas_only_where_the_page_loads_asciimath():
    body = "<body><p>The area of a circle of radius one is `pi r^2`, as is well known to everybody who reads this.</p>"
    assert "$\\pi r^{2}$" in main_text(f'<script src="js/ASCIIMathML.js"></script>{body}'.encode(), "utf-8")
    assert "`pi r^2`" in main_text(body.encode(), "utf-8")


def test_what_nests_without_end_stays_as_it_is():
    assert tex_of_asciimath("(" * 500) == "(" * 500


@pytest.mark.timeout(20)
def test_bars_that_nothing_closes_take_no_time():
    assert tex_of_asciimath("(|" * 30)


def test_a_comment_goes_up_to_its_end():
    page = "<body><p>The main text of this page is a sentence.</p><!-- a -- b <p>never shown</p> --><p>And one more.</p>"
    assert main_text(page.encode(), "utf-8") == "The main text of this page is a sentence.\n\nAnd one more."

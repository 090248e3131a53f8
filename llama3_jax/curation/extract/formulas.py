"""Formulas of a page, whatever shows them, as TeX between dollar signs."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote

from llama3_jax.curation.extract.asciimath import tex_of_asciimath
from llama3_jax.curation.extract.mathml import tex_of

_SCRIPT = re.compile(r'<script[^>]*?type="math/(tex|asciimath)([^"]*)"[^>]*>(.*?)</script>', re.S)
_LOADS_ASCIIMATH = re.compile(
    r'<script\b[^>]*?\bsrc="[^"]*(?:asciimath|[?&-]AM_|config=[^"]*\bAM_)|asciimath2jax|input/asciimath', re.I
)
_BETWEEN_BACKTICKS = re.compile(r"<(pre|code|textarea|kbd)\b.*?</\1>|<[^>]*>|(?<![\\`])`([^`<]{1,1000})`", re.S)
_MATH = re.compile(r"<math\b([^>]*)>(.*?)</math>", re.S)
_ANNOTATION = re.compile(r'<annotation[^>]*encoding="[^"]*tex[^"]*"[^>]*>(.*?)</annotation(?:-xml)?>', re.S | re.I)
_IMAGE = re.compile(r"<img\b[^>]*>")
_SAYS_FORMULA = ("tex", "math", "equation", "formula", "codecogs", "\\", "$")
_MATH_IMAGE = re.compile(
    r"(?:^|[\s/_.?-])(?:tex|latex|mathtex|mimetex|math|equation|formula|codecogs)(?:$|[\s/_.?=&-])|mwe-math|cgi-bin/\w*tex", re.I
)
_TEX = re.compile(r"\\[a-zA-Z]+|[\^_]\{?\w|\$")
_DATA_TEX = re.compile(r'<\w+\b[^>]*?\bdata-(?:tex|latex|expr|math|katex)="([^"]+)"[^>]*>', re.I)
_ENDS_OF_DATA = ('tex="', 'data-expr="', 'data-math="')
_IN_ADDRESS = re.compile(
    r"(?:[/.](?:mimetex|mathtex|latex|tex)(?:\.cgi|\.php)?|codecogs\.com/\w+(?:\.latex)?)\?"
    r"(?:(?:[^?=]*=[^?&]*&)*(?:latex|tex)=)?([^?]+?)(?:&\w+=.*)?(?:#.*)?$",
    re.I,
)
"""Services that draw what their address says."""
_DELIMITED = re.compile(r"^\s*(?:\$|\\\(|\\\[|\\begin)")

OPEN, CLOSE = "\ue000", "\ue001"
"""Around the number of a formula while the page is taken apart."""
_MARK = re.compile(f"{OPEN}(\\d+){CLOSE}")


def loads_asciimath(page: str) -> bool:
    """Whether a program of the page shows what stands between backticks as formulas."""
    return _LOADS_ASCIIMATH.search(page) is not None


def lift_formulas(page: str, *, asciimath: bool = False) -> tuple[str, list[str]]:
    """Takes the formulas out of serialised HTML: each becomes a mark, and a string of the list.

    TeX of MathJax scripts, of annotations and alttext of MathML, of data attributes and of the `alt` of formula images;
    MathML without any, and AsciiMath, are written as TeX.

    Args:
        asciimath: whether what stands between backticks is AsciiMath.
    """
    formulas: list[str] = []
    if OPEN in page:
        page = page.replace(OPEN, "")

    def mark(tex: str, display: bool) -> str:
        tex = html.unescape(tex).strip()
        if not tex:
            return ""
        if not _DELIMITED.match(tex):
            tex = f"$${tex}$$" if display else f"${tex}$"
        formulas.append(tex)
        return f"{OPEN}{len(formulas) - 1}{CLOSE}"

    def of_math(found: re.Match) -> str:
        attributes, inside = found.groups()
        annotation = _ANNOTATION.search(inside)
        source = annotation[1] if annotation else _attributes(attributes).get("alttext")
        display = 'display="block"' in attributes
        if source is not None:
            return mark(_without_style(source), display)
        return mark(html.escape(tex_of(inside), quote=False), display)

    def of_asciimath(source: str, display: bool) -> str:
        return mark(html.escape(tex_of_asciimath(html.unescape(source)), quote=False), display)

    def of_script(found: re.Match) -> str:
        kind, more, source = found.groups()
        display = "display" in more
        return of_asciimath(_plain(source), display) if kind == "asciimath" else mark(_plain(source), display)

    if 'type="math/' in page:
        page = _SCRIPT.sub(of_script, page)
    if asciimath:
        page = _BETWEEN_BACKTICKS.sub(lambda found: of_asciimath(found[2], False) if found[2] else found[0], page)
    has_math = "<math" in page
    if has_math:
        page = _MATH.sub(of_math, page)

    def of_image(found: re.Match) -> str:
        if not _says_formula(found.group()):
            return found.group()
        said = _attributes(found.group())
        alt = html.unescape(said.get("alt", "")).strip()
        source = _IN_ADDRESS.search(html.unescape(said.get("src", "")))
        if source is not None and not _TEX.search(alt):
            return mark(html.escape(_decoded(source.group(1)), quote=False), False)
        called, place = said.get("class", ""), said.get("src", "")
        if has_math and "mwe-math" in called:
            return ""  # the same formula stands beside it as MathML
        is_tex = _TEX.search(alt) is not None
        if is_tex and (_DELIMITED.match(alt) or _MATH_IMAGE.search(called) or _MATH_IMAGE.search(place)):
            return mark(_without_style(alt), "display" in called)
        if 0 < len(alt) <= 40 and _MATH_IMAGE.search(called):
            return mark(_without_style(alt), "display" in called)
        return found.group()

    if _says_formula("".join(_IMAGE.findall(page))):
        page = _IMAGE.sub(of_image, page)

    def of_data(found: re.Match) -> str:
        return (mark(found.group(1), False) if _TEX.search(found.group(1)) else "") + found.group()

    if any(end in page for end in _ENDS_OF_DATA):
        page = _DATA_TEX.sub(of_data, page)
    return page, formulas


def _decoded(query: str) -> str:
    """TeX of an address. `+` stands for a blank where forms wrote it, which leave no blank and no backslash as it is."""
    by_form = "%" in query and "\\" not in query and " " not in query
    return unquote(query.replace("+", " ") if by_form else query)


def _says_formula(images: str) -> bool:
    images = images.lower()
    return any(word in images for word in _SAYS_FORMULA)


def put_back(text: str, formulas: list[str]) -> str:
    """The marks of a text as the formulas they stand for."""
    return _MARK.sub(lambda found: formulas[int(found.group(1))], text) if formulas else text


def _attributes(tag: str) -> dict[str, str]:
    """Of a serialised tag, whose values have no quotation marks of their own: name -> value as it is escaped."""
    parts = tag.split('"')
    return {name[name.rfind(" ") + 1 : -1]: value for name, value in zip(parts[0::2], parts[1::2], strict=False)}


def _plain(script: str) -> str:
    return re.sub(r"^\s*<!\[CDATA\[|\]\]>\s*$|^\s*%\s*<!\[CDATA\[", "", script)


def _without_style(tex: str) -> str:
    """TeX without the braces and style that MediaWiki puts around it."""
    tex = html.unescape(tex).strip()
    found = re.fullmatch(r"\{\\(?:displaystyle|textstyle)\s*(.*)\}", tex, re.S)
    return found.group(1).strip() if found else tex

"""Elements to text: blocks on lines of their own, rows of tables, code as it stands."""

from __future__ import annotations

import html
import re

import numpy as np

from llama3_jax.curation.extract.elements import Elements
from llama3_jax.curation.extract.remembered import remembered

_BLOCKS = frozenset(
    "html body div ul ol li dl dt dd table tr section article main header footer aside nav form fieldset figure figcaption "
    "address details summary center tbody thead tfoot caption hr dir menu legend hgroup search option".split()
)
_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 blockquote pre table ul ol dl".split())
_CODE = re.compile(
    r"(?:^|[\s_-])(?:syntaxhighlighter|codehilite|codemirror-code|prettyprint|crayon-(?:code|pre)|hljs|code-?block)(?:$|\s)"
)
_CLASS = ' class="'
# Until the end, breaks are control characters, which no text has.
_BREAK_SIGNS = "\x01\x02\x03\x04\x05\x06\x07"  # none is a blank to str.split
_LINE, _PARAGRAPH, _CELL, _CODE_LINE, _CODE_SPACE, _CODE_BREAK, _CODE_TAB = _BREAK_SIGNS
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")


def without_controls(page: str) -> str:
    """A page that has none of the signs which stand for breaks."""
    return _CONTROLS.sub(" ", page) if any(sign in page for sign in _BREAK_SIGNS) else page


def written(page: Elements, gone: np.ndarray, first: int, last: int) -> str:
    """The text from start tag `first` to its end tag `last`, without the elements that are `gone`.

    Args:
        gone: of each element.
    """
    skipped = set(page.starts[gone].tolist())
    ends = page.end_of
    names, texts = page.names, page.texts
    out: list[str] = []
    number, code_end, first_cell = first, -1, True
    while number <= last:
        name = names[number]
        end = ends[number]
        if number in skipped:
            if name in _BLOCKS or name in _PARAGRAPHS:
                out.append(_LINE)
            number = end
        else:
            in_code = number < code_end
            if end >= 0 and not in_code and _begins_code(page, number):
                code_end, in_code = end, True
                out.append(_PARAGRAPH)
            elif number == code_end:
                out.append(_PARAGRAPH)
            elif name == "br":
                out.append(_CODE_LINE if in_code else _LINE)
            elif name in ("td", "th"):
                if end >= 0:
                    out.append("" if first_cell or in_code else _CELL)
                    first_cell = False
            elif name in _PARAGRAPHS:
                out.append(_CODE_BREAK if in_code else _PARAGRAPH)
            elif name in _BLOCKS:
                out.append(_CODE_BREAK if in_code else _LINE)
            if name == "tr":
                first_cell = True
        if number < last and (text := texts[number + 1]):
            text = html.unescape(text) if "&" in text else text
            out.append(_as_code(text) if number < code_end else text)
        number += 1
    return _tidy("".join(out))


def _as_code(text: str) -> str:
    for sign, kept in _TO_CODE:
        text = text.replace(sign, kept)
    return text


def _begins_code(page: Elements, number: int) -> bool:
    """Whether a start tag is of code that is shown as it stands."""
    name, said = page.names[number], page.attributes[number]
    if name == "code":
        return "br" in page.names[number : page.end_of[number]]
    if name == "pre":
        return True
    place = said.find(_CLASS) + len(_CLASS)
    return place >= len(_CLASS) and _is_code(said[place : said.find('"', place)])


@remembered
def _is_code(called: str) -> bool:
    """By the class of an element."""
    return _CODE.search(called.lower()) is not None


_UNSEEN = "\u00ad\u200b\u200c\u2060\ufeff"
_WIDE_BLANKS = "\u3000\u2009\u2003\u2002\u202f\u200a\u2005\u2006\u2007\u2008\u2004\u2000\u2001\u205f\u1680\x85"
"""What str.split takes for blanks and a text keeps."""
_INDENTED = re.compile(rf"([{_LINE}{_PARAGRAPH}])\n?((?:\u00a0 ?){{2,40}})(?=[^\s\u00a0])")
"""Code that is shown without being called so: lines that begin with hard blanks."""
_BLANKS = re.compile(r"[\n\r\t\f\u00a0\u2028\u2029][ \n\r\t\f\u00a0\u2028\u2029]*| [ \n\r\t\f\u00a0\u2028\u2029]+")
_BREAKS = re.compile(rf"[{_LINE}{_PARAGRAPH}{_CELL}]+")
_CODE_BREAKS = re.compile(rf"{_CODE_LINE}?{_CODE_BREAK}+(?:{_CODE_LINE}(?!{_CODE_LINE}))?")
_AT_ENDS = re.compile(
    rf"[{_CODE_LINE}{_CODE_SPACE}{_CODE_TAB}]*{_CODE_LINE}[{_CODE_SPACE}{_CODE_TAB}]*(?=[{_PARAGRAPH}{_LINE}])"
    rf"|(?<=[{_PARAGRAPH}{_LINE}])[{_CODE_SPACE}{_CODE_TAB}]*{_CODE_LINE}+"
)
_AT_LINE_ENDS = re.compile(r"[ \t]+\n")
_TO_CODE = (
    ("\r", ""), ("\u200b", ""), ("\n", _CODE_LINE), (" ", _CODE_SPACE), ("\u00a0", _CODE_SPACE), ("\t", _CODE_TAB),
)  # fmt: skip
_FROM_CODE = ((_CODE_LINE, "\n"), (_CODE_SPACE, " "), (_CODE_TAB, "\t"), (_CELL, "\t"))


def _as_lines(found: re.Match) -> str:
    """The widest of some breaks in a row."""
    breaks = found.group()
    return "\n\n" if _PARAGRAPH in breaks else "\n" if _LINE in breaks else breaks


_LONG, _FEW = 60, 0.2
_NO_PROSE = re.compile(f"[{_CELL}{_CODE_LINE}{_CODE_SPACE}{_CODE_TAB}{{}}=<>\\\\]|[;)]$")


def _without_echoes(text: str) -> str:
    """Without lines that are the one before, word for word: captions stand in a page for each way of showing its pictures.
    Short lines, rows of tables and what looks like code may come again; and a page of which a good part does is meant so."""
    kept: list[str] = []
    last = ""
    for line in text.split("\n"):
        if line == last and len(line) >= _LONG and not _NO_PROSE.search(line):
            continue
        if line or not kept or kept[-1]:
            kept.append(line)
        last = line or last
    fewer = "\n".join(kept)
    return fewer if len(text) - len(fewer) <= _FEW * len(text) else text


def _tidy(text: str) -> str:
    """Breaks as line feeds: at most one empty line outside of code, no blanks at the ends of lines."""
    if "\u00a0\u00a0" in text or "\u00a0 " in text:
        text = _INDENTED.sub(
            lambda found: found.group(1) + _CODE_SPACE * found.group(2).count("\u00a0") * (1 + (" " in found.group(2))), text
        )
    for sign in _UNSEEN:
        text = text.replace(sign, "")
    text = _BLANKS.sub(" ", text) if any(sign in text for sign in _WIDE_BLANKS) else " ".join(text.split())
    for sign in (_LINE, _PARAGRAPH, _CELL):
        text = text.replace(" " + sign, sign).replace(sign + " ", sign)
    if _CODE_BREAK in text:
        text = _CODE_BREAKS.sub(_CODE_LINE, text)
    if _CODE_LINE in text:
        text = _AT_ENDS.sub("", text)
    text = _without_echoes(_BREAKS.sub(_as_lines, text))
    for sign, meant in _FROM_CODE:
        text = text.replace(sign, meant)
    if " \n" in text or "\t\n" in text:
        text = _AT_LINE_ENDS.sub("\n", text)
    return _CONTROLS.sub("", text).strip("\n ")

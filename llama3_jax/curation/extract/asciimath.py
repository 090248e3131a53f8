"""AsciiMath, written as TeX: the notation that ASCIIMathML.js and MathJax show as formulas, by the grammar of its authors.

intermediate = simple, simple "_" simple, simple "^" simple or simple "_" simple "^" simple
expression   = intermediates in a row; intermediate "/" intermediate is a fraction
simple       = constant, bracket expression bracket, unary simple or binary simple simple
"""

from __future__ import annotations

import re

_GREEK = (
    "alpha beta chi delta Delta epsilon varepsilon eta gamma Gamma iota kappa lambda Lambda mu nu omega Omega phi varphi Phi pi "
    "Pi psi Psi rho sigma Sigma tau theta vartheta Theta upsilon xi Xi zeta"
).split()
_SAME = (
    "sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh coth exp log ln det dim gcd lim sup inf min max ker deg arg "
    "sum prod int oint vee wedge cap cup in notin subset supset subseteq supseteq forall exists partial nabla infty emptyset "
    "aleph angle triangle diamond therefore because times div cdot ast star circ oplus otimes odot ltimes rtimes bowtie setminus "
    "le ge ne lt gt prec succ equiv cong approx propto sim bot top vdash models to mapsto rightarrow leftarrow "
    "leftrightarrow uparrow downarrow Rightarrow "
    "Leftarrow Leftrightarrow neg pm mp quad qquad ldots cdots vdots ddots prime mod neq leq geq"
).split()
_CONSTANTS = {name: f"\\{name}" for name in (*_GREEK, *_SAME)} | {
    "*": r"\cdot", "**": r"\ast", "***": r"\star", "//": "/", "\\\\": r"\setminus", "xx": r"\times", "-:": r"\div", "@": r"\circ",
    "o+": r"\oplus", "ox": r"\otimes", "o.": r"\odot", "^^": r"\wedge", "^^^": r"\bigwedge", "vv": r"\vee", "vvv": r"\bigvee",
    "nn": r"\cap", "nnn": r"\bigcap", "uu": r"\cup", "uuu": r"\bigcup", "!=": r"\ne", ":=": ":=", "<=": r"\le", ">=": r"\ge",
    "-<": r"\prec", ">-": r"\succ", "-<=": r"\preceq", ">-=": r"\succeq", "!in": r"\notin", "sub": r"\subset", "sup": r"\supset",
    "sube": r"\subseteq", "supe": r"\supseteq", "-=": r"\equiv", "~=": r"\cong", "~~": r"\approx",
    "prop": r"\propto", "~": r"\sim",
    "and": r"\text{ and }", "or": r"\text{ or }", "not": r"\neg", "=>": r"\Rightarrow", "<=>": r"\Leftrightarrow",
    "if": r"\text{ if }",
    "iff": r"\Leftrightarrow", "implies": r"\Rightarrow", "AA": r"\forall", "EE": r"\exists", "_|_": r"\bot", "TT": r"\top",
    "|--": r"\vdash", "|==": r"\models", "del": r"\partial", "grad": r"\nabla", "+-": r"\pm", "-+": r"\mp", "O/": r"\emptyset",
    "oo": r"\infty", "...": r"\cdots", ":.": r"\therefore", ":'": r"\because", "/_": r"\angle", "/_\\": r"\triangle",
    "\\ ": r"\ ",
    "CC": r"\mathbb{C}", "NN": r"\mathbb{N}", "QQ": r"\mathbb{Q}", "RR": r"\mathbb{R}", "ZZ": r"\mathbb{Z}", "uarr": r"\uparrow",
    "darr": r"\downarrow", "rarr": r"\rightarrow", "->": r"\to", "|->": r"\mapsto", "larr": r"\leftarrow",
    "harr": r"\leftrightarrow",
    "rArr": r"\Rightarrow", "lArr": r"\Leftarrow", "hArr": r"\Leftrightarrow", ">->": r"\rightarrowtail", "lcm": r"\mathrm{lcm}",
    "diam": r"\diamond", "frown": r"\frown", "%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$", "dx": r"\mathrm{dx}",
    "dy": r"\mathrm{dy}",
    "dz": r"\mathrm{dz}", "dt": r"\mathrm{dt}", "'": "'",
}  # fmt: skip
_OPEN = {
    "(": "(", "[": "[", "{": r"\{", "(:": r"\langle", "<<": r"\langle", "langle": r"\langle", "{:": ".", "|__": r"\lfloor",
    "|~": r"\lceil",
}  # fmt: skip
_CLOSE = {
    ")": ")", "]": "]", "}": r"\}", ":)": r"\rangle", ">>": r"\rangle", "rangle": r"\rangle", ":}": ".", "__|": r"\rfloor",
    "~|": r"\rceil",
}  # fmt: skip
_ACCENTS = (
    "hat bar vec dot ddot tilde underline overline underbrace overbrace mathbf mathbb mathcal mathtt mathfrak mathsf mathrm sqrt"
).split()
_UNARY = {name: f"\\{name}" for name in _ACCENTS} | {
    "ul": r"\underline", "ubrace": r"\underbrace", "obrace": r"\overbrace", "bb": r"\mathbf", "bbb": r"\mathbb",
    "cc": r"\mathcal",
    "tt": r"\mathtt", "fr": r"\mathfrak", "sf": r"\mathsf", "cancel": r"\cancel",
}  # fmt: skip
_AROUND = {"abs": (r"\left|", r"\right|"), "norm": (r"\left\|", r"\right\|"), "floor": (r"\lfloor", r"\rfloor"),
           "ceil": (r"\lceil", r"\rceil")}  # fmt: skip
_BINARY = {"frac": r"\frac", "root": r"\sqrt", "stackrel": r"\stackrel", "overset": r"\overset", "underset": r"\underset"}
_TEXT = ("text", "mbox")
_WORDS = sorted({*_CONSTANTS, *_OPEN, *_CLOSE, *_UNARY, *_AROUND, *_BINARY, *_TEXT, "|", "_", "^", "/"}, key=len, reverse=True)
_TOKEN = re.compile(
    r'\s*(?:(?P<text>(?:text|mbox)\s*\((?P<said>[^()]*)\)|"(?P<quoted>[^"]*)")|(?P<number>\d+(?:\.\d+)?)|'
    rf"(?P<word>{'|'.join(map(re.escape, _WORDS))})|(?P<other>\S))",
    re.S,
)
_LONGEST, _DEEPEST = 4000, 64


def tex_of_asciimath(source: str) -> str:
    """AsciiMath as TeX; as it stands where it is longer, or nests deeper, than any formula."""
    if len(source) > _LONGEST:
        return source
    tokens = []
    for found in _TOKEN.finditer(source):
        if found["text"] is not None:
            tokens.append(("text", found["said"] if found["said"] is not None else found["quoted"]))
        else:
            tokens.append((found.lastgroup, found[found.lastgroup]))
    reader = _Reader(tokens)
    try:
        return _row(reader.to_end())
    except RecursionError:
        return source


class _Reader:
    """Goes through the tokens once; every method returns the TeX of what it took."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self._tokens, self._place, self._depth = tokens, 0, 0

    def to_end(self) -> list[str]:
        parts = self._expression(())
        while self._place < len(self._tokens):  # a bracket that nothing opened
            parts += [_bare(_CLOSE.get(self._take()[1], "")), *self._expression(())]
        return parts

    def _next(self) -> str:
        return self._tokens[self._place][1] if self._place < len(self._tokens) and not self._is_text() else ""

    def _is_text(self) -> bool:
        return self._tokens[self._place][0] == "text"

    def _take(self) -> tuple[str, str]:
        self._place += 1
        return self._tokens[self._place - 1]

    def _expression(self, ends: tuple[str, ...]) -> list[str]:
        """Up to a closing bracket, one of `ends`, or the end."""
        parts: list[str] = []
        while self._place < len(self._tokens) and not (self._next() in _CLOSE or self._next() in ends):
            if self._next() == "/":
                self._take()
                parts.append("/")
                continue
            part = self._intermediate(ends)
            if self._next() == "/":
                self._take()
                below = self._intermediate(ends) if self._place < len(self._tokens) and self._next() not in _CLOSE else ""
                part = f"\\frac{{{_inner(part)}}}{{{_inner(below)}}}"
            parts.append(part)
        return parts

    def _intermediate(self, ends: tuple[str, ...] = ()) -> str:
        base = self._simple(ends)
        for sign in ("_", "^"):
            if self._next() == sign:
                self._take()
                base = f"{base}{sign}{{{_inner(self._simple(ends))}}}"
        return base

    def _simple(self, ends: tuple[str, ...] = ()) -> str:
        if self._place >= len(self._tokens) or self._next() in _CLOSE:
            return ""
        kind, token = self._take()
        if kind == "text":
            return f"\\text{{{token}}}" if token.strip() else ""
        if kind in ("number", "other"):
            return "\\backslash" if token == "\\" else token
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError
        try:
            return self._composed(token, ends)
        finally:
            self._depth -= 1

    def _composed(self, token: str, ends: tuple[str, ...]) -> str:
        if token in _OPEN:
            return self._bracketed(token)
        if token == "|" and "|" not in ends:
            inside = self._expression(("|",))
            if inside and self._next() == "|":
                self._take()
                return f"\\left|{_row(inside)}\\right|"
            return _row(["|", *inside])
        if token in _UNARY:
            return f"{_UNARY[token]}{{{_inner(self._simple(ends))}}}"
        if token in _AROUND:
            before, after = _AROUND[token]
            return f"{before} {_inner(self._simple(ends))} {after}"
        if token in _BINARY:
            first, second = _inner(self._simple(ends)), _inner(self._simple(ends))
            return f"\\sqrt[{first}]{{{second}}}" if token == "root" else f"{_BINARY[token]}{{{first}}}{{{second}}}"
        return _CONSTANTS.get(token, token)

    def _bracketed(self, opening: str) -> str:
        inside = self._expression(())
        closing = self._take()[1] if self._place < len(self._tokens) else ""
        if not closing:
            return " ".join(filter(None, [_bare(_OPEN[opening]), _row(inside)]))
        if (rows := _matrix(inside)) is not None:
            body = " \\\\ ".join(" & ".join(row) for row in rows)
            return f"\\left{_OPEN[opening]}\\begin{{matrix}}{body}\\end{{matrix}}\\right{_CLOSE[closing]}"
        return f"\\left{_spaced(_OPEN[opening])}{_row(inside)}\\right{_CLOSE[closing]}"


_BRACKETED = re.compile(r"\\left([(\[])(.*)\\right([)\]])", re.S)
_COMMA = re.compile(r" ?, ?")


def _inner(part: str) -> str:
    """Without the brackets that only say what belongs together."""
    for begin, end in (("\\left(", "\\right)"), ("\\left[", "\\right]"), ("\\left\\{", "\\right\\}"), ("\\left. ", "\\right.")):
        if part.startswith(begin) and part.endswith(end) and _is_one(part):
            return part[len(begin) : -len(end)].strip()
    return part


def _is_one(part: str) -> bool:
    """Whether the first bracket is closed by the last."""
    depth = 0
    for found in re.finditer(r"\\(left|right)(?![a-z])", part):
        depth += 1 if found[1] == "left" else -1
        if depth == 0:
            return not part[found.end() :].lstrip("\\")[1:]
    return False


def _matrix(parts: list[str]) -> list[list[str]] | None:
    """The cells of brackets within brackets, all of one length: [[a, b], [c, d]]."""
    rows = [part for part in parts if part != ","]
    if len(rows) < 2 or len(parts) != 2 * len(rows) - 1 or parts[1::2] != [","] * (len(rows) - 1):
        return None
    found = [_BRACKETED.fullmatch(row) for row in rows]
    if not all(found) or not all(_is_one(row) for row in rows):
        return None
    cells = [_COMMA.split(row[2].strip()) for row in found]
    return cells if len({len(row) for row in cells}) == 1 and (len(cells[0]) > 1 or found[0][1] == "[") else None


def _bare(bracket: str) -> str:
    return "" if bracket == "." else bracket


def _spaced(bracket: str) -> str:
    return f"{bracket} " if bracket == "." or bracket[-1].isalpha() else bracket


def _row(parts: list[str]) -> str:
    return " ".join(part for part in parts if part)

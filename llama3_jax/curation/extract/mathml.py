"""MathML without its TeX, written as TeX."""

from __future__ import annotations

import html
import re

_ELEMENT = re.compile(r"<(/?)(?:\w+:)?(\w+)[^>]*?(/?)>|([^<]+)")
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau upsilon phi chi "
    "psi omega"
).split()
_SIGNS = {chr(0x3B1 + place): f"\\{name} " for place, name in enumerate(_GREEK)}
_SIGNS |= {chr(0x391 + place): f"\\{name.capitalize()} " for place, name in enumerate(_GREEK)}
_NAMED = (
    "sum prod int oint infty partial nabla surd le ge ne approx equiv sim cong propto to leftarrow "
    "leftrightarrow Rightarrow Leftarrow Leftrightarrow mapsto times cdot div pm mp in notin subset subseteq "
    "supset supseteq cup cap emptyset forall exists neg wedge vee oplus otimes ldots cdots vdots ddots ell "
    "hbar Re Im circ dagger langle rangle lfloor rfloor lceil rceil parallel perp epsilon varphi vartheta cdot"
).split()
_SIGNS |= {
    sign: f"\\{name} "
    for sign, name in zip("∑∏∫∮∞∂∇√≤≥≠≈≡∼≅∝→←↔⇒⇐⇔↦×·÷±∓∈∉⊂⊆⊃⊇∪∩∅∀∃¬∧∨⊕⊗…⋯⋮⋱ℓℏℜℑ∘†⟨⟩⌊⌋⌈⌉∥⊥ϵϕϑ⋅", _NAMED, strict=True)
}
_SIGNS |= {
    "\u2212": "-",
    "\u2032": "'",
    "\u00a0": " ",
    "{": "\\{",
    "}": "\\}",
    "%": "\\%",
    "#": "\\#",
    "&": "\\&",
    "$": "\\$",
}
_SIGNS |= {sign: "" for sign in "\u2061\u2062\u2063\u2064\u200b"}
_BLACKBOARD = {"ℝ": "R", "ℕ": "N", "ℤ": "Z", "ℚ": "Q", "ℂ": "C", "ℙ": "P", "ℍ": "H"}
_SIGNS |= {sign: f"\\mathbb{{{letter}}}" for sign, letter in _BLACKBOARD.items()}
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp lim limsup liminf max min sup inf det "
    "dim ker gcd arg deg Pr".split()
)
_ACCENTS = {
    "\u00af": "bar", "\u203e": "overline", "^": "hat", "\u02c6": "hat", "~": "tilde", "\u02dc": "tilde", "\u2192": "vec",
    "\u20d7": "vec", "\u02d9": "dot", "\u00a8": "ddot", "_": "underline", "\u23df": "underbrace", "\u23de": "overbrace",
}  # fmt: skip
_ROWS = frozenset("math mrow mstyle semantics mpadded mphantom menclose merror mtd a".split())


def tex_of(mathml: str) -> str:
    """The inside of a `math` element as TeX."""
    stack: list[tuple[str, list[str]]] = [("mrow", [])]
    for closing, name, own, text in _ELEMENT.findall(mathml):
        if text:
            if text.strip():
                stack[-1][1].append(html.unescape(text).strip())
        elif closing:
            if len(stack) > 1:
                kind, parts = stack.pop()
                stack[-1][1].append(_joined(kind, parts))
        elif own:
            stack[-1][1].append(" " if name == "mspace" else "")
        else:
            stack.append((name, []))
    while len(stack) > 1:
        kind, parts = stack.pop()
        stack[-1][1].append(_joined(kind, parts))
    return " ".join("".join(stack[0][1]).split())


def _joined(kind: str, parts: list[str]) -> str:
    match kind, parts:
        case "mi" | "mo" | "mn", _:
            return _leaf(kind, "".join(parts))
        case "mtext" | "ms", _:
            return f"\\text{{{' '.join(parts)}}}" if any(parts) else ""
        case "mfrac", [above, below]:
            return f"\\frac{{{above}}}{{{below}}}"
        case "msup", [base, above]:
            return f"{base.rstrip()}^{_grouped(above)}"
        case "msub", [base, below]:
            return f"{base.rstrip()}_{_grouped(below)}"
        case "msubsup" | "munderover", [base, below, above]:
            return f"{base.rstrip()}_{_grouped(below)}^{_grouped(above)}"
        case "munder" | "mover", [base, mark]:
            if (accent := _ACCENTS.get(mark.strip()) or _ACCENT_OF_TEX.get(mark.strip())) is not None:
                return f"\\{accent}{{{base.strip()}}}"
            return f"{base.rstrip()}{'_' if kind == 'munder' else '^'}{_grouped(mark)}"
        case "msqrt", _:
            return f"\\sqrt{{{''.join(parts)}}}"
        case "mroot", [base, degree]:
            return f"\\sqrt[{degree}]{{{base}}}"
        case "mfenced", _:
            return f"({', '.join(parts)})"
        case "mtr" | "mlabeledtr", _:
            return " & ".join(parts)
        case "mtable", _:
            return _matrix(parts)
        case "annotation" | "annotation-xml", _:
            return ""
    return "".join(parts)


def _matrix(rows: list[str]) -> str:
    inside = " \\\\ ".join(rows)
    return f"\\begin{{matrix}}{inside}\\end{{matrix}}"


def _leaf(kind: str, text: str) -> str:
    if kind == "mi" and len(text) > 1 and text.isascii() and text.isalpha():
        return f"\\{text} " if text in _FUNCTIONS else f"\\mathrm{{{text}}}"
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _grouped(part: str) -> str:
    part = part.strip()
    return part if len(part) == 1 else f"{{{part}}}"


_ACCENT_OF_TEX = {_SIGNS[sign].strip(): name for sign, name in _ACCENTS.items() if sign in _SIGNS}

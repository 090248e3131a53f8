"""The main content of a page: boilerplate by what elements are called and by how much of them is links, the container
that holds the prose, and its text with the shape that matters."""

from __future__ import annotations

import html
import re

import numpy as np
from resiliparse.parse.html import HTMLTree

from llama3_jax.curation.extract.elements import ANCHOR, LINK_LIST, PRE, Elements, seen, take_apart
from llama3_jax.curation.extract.formulas import OPEN, lift_formulas, loads_asciimath, put_back
from llama3_jax.curation.extract.layout import without_controls, written
from llama3_jax.curation.extract.remembered import remembered

_CONTAINERS = frozenset(
    "body div section article main td table tbody tr ul ol dl li blockquote center form fieldset span dd figure".split()
)
_GONE = frozenset("nav footer aside button dialog menu textarea label option".split())
_ROLES = re.compile(
    r'role="(?:navigation|banner|contentinfo|search|complementary|dialog|alert|menu|menubar|toolbar|tablist|alertdialog)"'
)
_HIDDEN = re.compile(
    r'(?:^|\s)hidden(?:=""|\s|$)|style="[^"]*(?:display:\s*none|visibility:\s*hidden)|(?:^|\s)aria-hidden="true"'
)
_LABELS = ("class=", "id=")
_BOILERPLATE = frozenset(
    "nav navbar navigation navigator navbox menu submenu sidebar breadcrumb breadcrumbs crumb crumbs footer foot cookie "
    "cookies consent gdpr addthis sns readmore ad ads adsense adbox banner newsletter newsletters signup popup modal "
    "overlay lightbox toolbar toolbox pagination pager paging tag tags taglist tagcloud widget widgets comment comments "
    "respond replies trending popular outbrain taboola skip masthead topbar metadata login printfriendly print noprint "
    "editsection catlinks toc copyright disclaimer hatnote headerlink feedback rating survey paywall carousel slider".split()
)
_BEGINNINGS = ("share", "sharing", "social", "related", "recommend", "promo", "advert", "sponsor", "subscri", "disqus", "donat")
_PAIRS = frozenset(
    "side bar,side column,sidecolumn,more stories,more posts,more articles,more news,more from,read more,sign up,"
    "tag cloud,jump link,jump links,skip link,skip nav,author bio,author box,author card,author info,post meta,"
    "entry meta,meta data,sr only,screen reader,visually hidden,reference tooltip,back to,authority control,site header,"
    "page header,global header,global nav,gallery nav".split(",")
)
_WORDS = re.compile("[a-z0-9]+")
_GUTTER = frozenset("lineno linenos linenodiv linenumber linenumbers gutter lnt clipboard".split())
_GUTTER_PAIRS = frozenset("line number,line numbers,blob num,ln num,ln numbers,copy button,copy btn".split(","))
_FIRST_OF_PAIRS = frozenset(pair.split()[0] for pair in _PAIRS | _GUTTER_PAIRS)
_RENDERED = re.compile("MathJax|mathjax_preview|katex-html|mjx-|MJX")
_CONTENT = re.compile(
    r'(?:class|id)="[^"]*(?:article-?body|articlebody|post-?content|entry-?content|story-?body|post-?body|article-?content|'
    r"main-?content|markdown-body|mw-parser-output|post-text|page-content|body-content|article__body|article-text|story-content)|"
    r'itemprop="articlebody"|role="main"'
)
_IN_CONTENT = ("body", "content", "text", "output", "main")
"""Of these, one is in each name for the content."""
_NAMED_FOR_CONTENT = frozenset("pre code p h1 h2 td".split())
"""Elements whose class or id speaks of what they are about, not of their part in the page."""
_UNNAMED = frozenset("a br hr html body main article".split())
"""Elements that are not left out for what they call themselves."""
_MOST = {"rendered": 2.0, "hidden": 0.8, "gutter": 0.4, "boilerplate": 0.4}
"""An element of more than this share of the page's prose stays, whatever it says of itself."""


def main_text(page: bytes, encoding: str) -> str:
    """The text of the main content of `page`: paragraphs, headings, list items and table rows on lines of their own, code
    as it is indented, formulas as TeX between dollar signs; no markdown.

    A page that shows any text gives text: where no main content stands out, everything but boilerplate, else everything.
    """
    try:
        serialised = HTMLTree.parse_from_bytes(page, encoding, "replace").document.html
    except (ValueError, LookupError, UnicodeError):
        return ""
    shown = without_controls(seen(serialised))
    lifted, formulas = lift_formulas(shown, asciimath="`" in shown and loads_asciimath(serialised))
    elements = take_apart(lifted)
    if not elements.names:
        return put_back(" ".join(html.unescape(elements.texts[0]).split()), formulas)
    gone, chosen = _content(elements, bool(formulas))
    text = written(elements, gone, *chosen)
    if not text.strip():
        text = written(elements, np.zeros_like(gone), 0, len(elements.names) - 1)
    return put_back(text, formulas)


def _content(page: Elements, has_formulas: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """Which start tags begin something that is left out, and between which tags the main content lies."""
    count, numbers = len(page.names), page.starts.tolist()
    names, attributes = [page.names[i] for i in numbers], [page.attributes[i] for i in numbers]
    starts, ends = page.starts, page.ends
    lengths = np.fromiter(map(len, map(str.strip, page.texts)), np.int64, count + 1)
    total = np.concatenate([[0], np.cumsum(lengths)])

    def inside(values: np.ndarray) -> np.ndarray:
        """Of each element, the sum over the texts within."""
        return values[ends + 1] - values[starts + 1]

    def within(which: np.ndarray) -> np.ndarray:
        """Of each text, whether it is within one of these elements."""
        opened = np.bincount(starts[which] + 1, minlength=count + 2) - np.bincount(ends[which] + 1, minlength=count + 2)
        return np.cumsum(opened)[: count + 1] > 0

    held = inside(total)
    in_link = within(page.kinds == ANCHOR)
    links = inside(np.concatenate([[0], np.cumsum(np.where(in_link, lengths, 0))]))
    whole = max(1, int(total[-1]))
    unlinked = max(1, whole - int(np.where(in_link, lengths, 0).sum()))
    marked = np.array([OPEN in text for text in page.texts], np.int64) if has_formulas else np.zeros(count + 1, np.int64)
    marks = inside(np.concatenate([[0], np.cumsum(marked)]))

    gone = np.zeros(len(starts), bool)
    share = (held - links) / unlinked
    shares, link_share, ends_at, after = share.tolist(), (links > 0.3 * held).tolist(), ends.tolist(), -1
    for place in np.flatnonzero(held > 0).tolist():
        name = names[place]
        if name in _UNNAMED or ends_at[place] < after:
            continue  # the latter is part of something that is left out
        if name in _GONE:
            leaves = shares[place] < 0.5
        elif said := attributes[place]:
            sign = _sign(said)
            spared = (sign == "hidden" and marks[place]) or (sign == "boilerplate" and name in _NAMED_FOR_CONTENT)
            leaves = sign and shares[place] < _MOST[sign] and not spared
        else:
            leaves = False
        if leaves or (name == "header" and shares[place] < 0.2 and link_share[place]):
            gone[place], after = True, ends_at[place]

    prose = _prose(lengths, ~within(gone) & ~in_link, within(page.kinds == PRE))
    score = inside(np.concatenate([[0], np.cumsum(prose)]))
    return _with_link_lists(page, gone, held, links, score), _main(page, names, attributes, gone, score)


@remembered
def _sign(attributes: str) -> str:
    """What the attributes of an element say that it is."""
    parts = attributes.split('"')
    labels = [value for name, value in zip(parts[0::2], parts[1::2], strict=False) if name.endswith(_LABELS)]
    by_name = _named(" ".join(labels)) if labels else ""
    if by_name == "rendered":
        return by_name
    if ("hidden" in attributes or "none" in attributes) and _HIDDEN.search(attributes):
        return "hidden"
    if not by_name and "role=" in attributes and _ROLES.search(attributes):
        return "boilerplate"
    return by_name


def _named(label: str) -> str:
    """By the words of an element's class and id."""
    if _RENDERED.search(label):
        return "rendered"
    words = _WORDS.findall(label.lower())
    pairs: set[str] = set()
    if not _FIRST_OF_PAIRS.isdisjoint(words):
        pairs = {f"{one} {other}" for one, other in zip(words, words[1:], strict=False)}
    if not _GUTTER.isdisjoint(words) or not _GUTTER_PAIRS.isdisjoint(pairs):
        return "gutter"
    if not _BOILERPLATE.isdisjoint(words) or not _PAIRS.isdisjoint(pairs) or any(w.startswith(_BEGINNINGS) for w in words):
        return "boilerplate"
    return ""


@remembered
def _is_content(attributes: str) -> bool:
    """By the attributes of an element."""
    said = attributes.lower()
    return any(word in said for word in _IN_CONTENT) and _CONTENT.search(said) is not None


def _prose(lengths: np.ndarray, seen: np.ndarray, in_code: np.ndarray) -> np.ndarray:
    """What each text counts for as prose: little for a few words, its length for a sentence and more, and for code a part of
    it, so that what explains the code is not left behind."""
    values = np.where(seen, np.where(in_code, 0.02, 1.0) * lengths, 0)
    return np.where(values >= 25, values, 0.1 * values)


def _main(page: Elements, names: list[str], attributes: list[str], gone: np.ndarray, score: np.ndarray) -> tuple[int, int]:
    """Down from the root as long as one child has nearly all of the prose."""
    whole = score[0] if len(score) else 0
    place = 0
    if whole > 0:
        if (named := _named_for_it(page, names, attributes, gone, score)) is not None:
            place, whole = named, score[named]
        while True:
            first, last = np.searchsorted(page.starts, (page.starts[place] + 1, page.ends[place]))
            children = first + np.flatnonzero((page.levels[first:last] == page.levels[place] + 1) & ~gone[first:last])
            best = int(children[np.argmax(score[children])]) if len(children) else None
            if best is None or names[best] not in _CONTAINERS or score[best] < 0.9 * score[place] or score[best] < 0.75 * whole:
                break
            place = best
    return int(page.starts[place]), int(page.ends[place])


def _named_for_it(page: Elements, names: list[str], attributes: list[str], gone: np.ndarray, score: np.ndarray) -> int | None:
    """The element that calls itself the content, innermost, if what it holds is not one piece of many."""
    named = [
        i for i in np.flatnonzero(~gone & (score > 0)).tolist()
        if names[i] in ("main", "article") or (attributes[i] and names[i] != "a" and _is_content(attributes[i]))
    ]  # fmt: skip
    nexts = [page.starts[i] for i in named[1:]] + [len(page.names)]
    inner = [i for i, after in zip(named, nexts[: len(named)], strict=True) if after > page.ends[i]]
    best = max(inner, key=lambda i: score[i], default=None)
    if best is None or score[best] < max(0.15 * score[0], 0.8 * sum(score[i] for i in inner)):
        best = next((i for i in reversed(named) if score[i] >= 0.5 * score[0]), None)
    return best


def _with_link_lists(page: Elements, gone: np.ndarray, held: np.ndarray, links: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Blocks that are links for the most part."""
    dense = links > 0.6 * np.maximum(held, 1)
    return gone | ((page.kinds == LINK_LIST) & dense & (held > 0) & (score < 140))

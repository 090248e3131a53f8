"""Domains of URLs, lists of them, and how dense each is in personal data."""

from __future__ import annotations

import functools
import gzip
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SUFFIXES = """
ar: com edu gob int mil musica net org tur
at: ac co gv or
au: asn com edu gov id net org
bd: ac com edu gov info net org
br: adm adv agr art blog com eco edu eng etc far flog gov ind inf jus leg med mil mus net ong org pro psc rec srv tmp tur tv
    vlog wiki
ca: ab bc gc mb nb nl ns nt nu on pe qc sk yk
cn: ac bj com cq edu gd gov gz hb mil net org sc sh tj zj
co: com edu gov mil net nom org
cr: ac co ed fi go or sa
cy: ac com ekloges gov net org
ec: com edu fin gob gov info med mil net org pro
eg: com edu eun gov mil name net org sci
es: com edu gob nom org
fr: asso com gouv nom prd tm
gh: com edu gov mil org
gr: com edu gov net org
hk: com edu gov idv net org
hu: co info org
id: ac biz co desa go mil my net or ponpes sch web
il: ac co gov idf k12 muni net org
in: ac co edu firm gen gov ind mil net nic org res
ir: ac co gov id net org sch
it: edu gov
jp: ac ad co ed go gr lg ne or
ke: ac co go info me mobi ne or sc
kr: ac co es go hs kg mil ms ne or pe re sc
kw: com edu emb gov ind net org
lk: ac com edu gov net org sch
lb: com edu gov net org
ma: ac co gov net org press
mm: biz com edu gov info net org
mt: com edu net org
mx: com edu gob net org
my: biz com edu gov mil name net org
ng: com edu gov i mil mobi name net org sch
np: com edu gov mil net org
nz: ac co cri geek gen govt health iwi kiwi maori mil net org parliament school
om: co com edu gov med net org
pe: com edu gob mil net nom org
ph: com edu gov i mil net ngo org
pk: ac com edu fam gkp gob gog gok gop gos gov net org web
pl: agro aid atm auto biz com edu gov info mail media mil net nom org pc priv shop sklep turystyka waw wroclaw
pt: com edu gov int net nome org publ
py: com coop edu gov mil net org
qa: com edu gov mil name net org sch
ro: arts com firm info nom nt org rec store tm www
rs: ac co edu gov in org
ru: msk spb
sa: com edu gov med net org pub sch
sg: com edu gov net org
sv: com edu gob org red
th: ac co go in mi net or
tr: av bbs bel biz com dr edu gen gov info k12 kep mil name net org pol tel tsk tv web
tw: club com ebiz edu game gov idv mil net org
tz: ac co go hotel info me mil mobi ne or sc tv
ua: cherkassy chernigov co com dnipropetrovsk donetsk dp edu gov in kh kharkov kherson kiev km kr kyiv lg lviv lutsk mk net
    nikolaev od odesa odessa org pl poltava rivne sumy te uz vinnica vn zp
ug: ac co com go ne or org sc
uk: ac co gov ltd me net nhs org plc police
uy: com edu gub mil net org
uz: co com net org
ve: co com e12 edu gob gov info int mil net org web
vn: ac biz com edu gov health info int name net org pro
za: ac agric alt co edu gov law mil net ngo nom org school web
zw: ac co gov mil org
"""
"""Of countries whose names are given out a level lower: what comes before them. The common ones of the public suffix list;
the list itself changes daily, and what a run leaves out must not."""
_UNDER = {country: frozenset(names.split()) for country, names in re.findall(r"^(\w\w): (.*(?:\n .*)*)", _SUFFIXES, re.M)}
_HOSTED = frozenset(
    "altervista.org appspot.com azurewebsites.net blogspot.com cloudfront.net firebaseapp.com fly.dev ghost.io github.io "
    "gitlab.io glitch.me hatenablog.com herokuapp.com hubpages.com jimdofree.com js.org livejournal.com medium.com "
    "neocities.org netlify.app notion.site onrender.com pages.dev readthedocs.io replit.app sourceforge.io substack.com "
    "tripod.com tumblr.com typepad.com vercel.app web.app webflow.io weebly.com wikidot.com wixsite.com wordpress.com "
    "workers.dev".split()
)
"""Below these, each name is somebody's own site. Also blogspot of every country."""
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_NO_SCHEME = re.compile(r"(?:www\.[^/\s]+|[\w-]+(?:\.[\w-]+)+(?::\d+)?/.*)", re.S)
_ADDRESS = re.compile(r"[0-9.]+|[0-9a-f:]*:[0-9a-f:.]*(?:%\w+)?")


def host(url: str) -> str:
    """The host of a URL in lower case, with other than ASCII letters as DNS writes them (IDNA); empty where there is none."""
    try:
        if "://" not in url[:32] and _NO_SCHEME.fullmatch(url):
            url = "//" + url
        return _ascii((urlsplit(url.strip()).hostname or "").strip("."))
    except ValueError:
        return ""


def registered_domain(url: str) -> str:
    """The part of a host that somebody registered: example.co.uk of www.example.co.uk, me.github.io of me.github.io.

    By the common part of the public suffix list, so that the answer does not change with the day; for rare suffixes it is a
    label too short. An IP address stands for itself.
    """
    name = host(url)
    labels = name.split(".")
    if len(labels) <= 2 or _ADDRESS.fullmatch(name):
        return name
    count = 3 if labels[-2] in _UNDER.get(labels[-1], ()) else 2
    own = ".".join(labels[-count:])
    if (own in _HOSTED or labels[-count] == "blogspot") and len(labels) > count:
        count += 1
    return ".".join(labels[-count:])


class DomainLists:
    """Named lists of domains; a listed domain stands for everything below it."""

    def __init__(self, paths: Mapping[str, str]):
        self._lists = {name: read_domains(path) for name, path in paths.items()}

    def listed(self, url: str) -> tuple[str, str] | None:
        """The first list that has the URL's host, and the domain it has; None if there is none."""
        ends = [place := host(url)]
        while "." in place:
            ends.append(place := place.partition(".")[2])
        for name, domains in self._lists.items():
            for end in ends:
                if end in domains:
                    return name, end
        return None


def read_domains(path: str) -> frozenset[str]:
    """One domain a line, or the lines of a hosts file (`0.0.0.0 example.com`); `#` begins a comment; .gz is read too. The
    last few lists stay in memory for whoever asks again.

    Raises: FileNotFoundError; ValueError for a line that is no domain.
    """
    place = Path(path).expanduser()
    about = os.stat(place)
    return _read_domains(str(place), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _read_domains(path: str, size: int, modified: int) -> frozenset[str]:
    opened = gzip.open if path.endswith(".gz") else open
    domains = set()
    with opened(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            words = line.partition("#")[0].split()
            of_hosts = len(words) > 1 and _ADDRESS.fullmatch(words[0].lower()) is not None
            for word in words[1:] if of_hosts else [" ".join(words)] if words else []:
                try:
                    name = _ascii(word.lower().removeprefix("*.").strip("."))
                except ValueError:
                    name = ""
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{path}:{number}: {word!r} is no domain; write one a line, such as example.com")
                if "." in name or not of_hosts:  # localhost and its like
                    domains.add(name)
    return frozenset(domains)


def _ascii(name: str) -> str:
    """Raises: UnicodeError, a ValueError, for what no host can be called."""
    return name if name.isascii() else name.encode("idna").decode()


@dataclass(frozen=True, kw_only=True)
class DomainDensity:
    """Which domains hold too much personal data, by our own count."""

    max_items_per_1000_words: float = 5.0
    """Not printed; ours."""
    min_documents: int = 20
    """Of a domain; fewer say little about it."""

    def too_dense(self, totals: Mapping[str, tuple[int, int, int]]) -> dict[str, float]:
        """Of domain -> (documents, words, items): those above, with their items per 1,000 words."""
        dense = {}
        for domain, (documents, words, items) in sorted(totals.items()):
            if documents >= self.min_documents and (density := 1000 * items / max(1, words)) > self.max_items_per_1000_words:
                dense[domain] = density
        return dense

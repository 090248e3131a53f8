"""`llama3 bench curate`: how fast each part of curation works on one core, beside datatrove where it is installed, and the
whole on one worker and on several."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from llama3_jax.curation.deduplicate.lines import line_hashes
from llama3_jax.curation.deduplicate.minhash import MinHash, signatures
from llama3_jax.curation.engine import Engine
from llama3_jax.curation.extract.main_text import main_text
from llama3_jax.curation.files import read_documents
from llama3_jax.curation.heuristics.c4 import C4
from llama3_jax.curation.heuristics.divergence import Divergence, token_counts
from llama3_jax.curation.heuristics.gopher import GopherQuality
from llama3_jax.curation.heuristics.measure import measure
from llama3_jax.curation.heuristics.repetition import GopherRepetition, Repetition
from llama3_jax.curation.heuristics.settings import Heuristics, Rules
from llama3_jax.curation.personal_data.find import find
from llama3_jax.curation.pipeline import Curation, Source, curate
from llama3_jax.curation.python_corpus import python_docs
from llama3_jax.curation.read.raw import Limits, Raw
from llama3_jax.curation.read.read import find_inputs, read

_NO_RULES = {"repetition": None, "divergence": None}
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class CurateBench:
    """What a YAML file of `llama3 bench curate` is checked against."""

    pages: tuple[str, ...] = ()
    """WARC or HTML files; none leaves reading and extraction out."""
    texts: tuple[str, ...] = ()
    """Files and directories; none takes the documentation of the running Python."""
    max_bytes: int
    """Of text, at most."""
    workers: tuple[int, ...] = (1, 2)
    """Of the whole pipeline; none leaves it out."""
    rounds: int
    """In each, everything is measured once, ours and datatrove's in turn."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class PartRate:
    """One part of curation on one core: medians over rounds, per second of processor time."""

    name: str
    bytes_per_s: float
    documents_per_s: float
    datatrove_bytes_per_s: float | None
    """On the first MB of the same input; None where it has no such part or is not installed."""


def report_curate(run: CurateBench) -> Iterator[str]:
    """The lines that the command prints."""
    yield f"one core, {run.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    yield f"{'':34}{'MB/s':>8}{'documents/s':>13}{'datatrove':>11}{'ratio':>8}"
    for rate in measure_parts(run):
        its = rate.datatrove_bytes_per_s
        beside = "" if its is None else f"{its / 1e6:>11.2f}{rate.bytes_per_s / its:>7.1f}x"
        yield f"{rate.name:34}{rate.bytes_per_s / 1e6:>8.1f}{rate.documents_per_s:>13,.0f}{beside}"
    if run.workers and (run.texts or run.pages):
        yield from _whole(run)


def measure_parts(run: CurateBench) -> list[PartRate]:
    """Measures every part, ours and then datatrove's, round by round."""
    logging.getLogger("datatrove").setLevel(logging.ERROR)
    texts = _texts(run)
    parts: dict[str, tuple[int, int, Callable[[], None]]] = {}
    if run.pages:
        pages = list(_pages(run.pages))
        parts["pages to text"] = (sum(len(found.body) for found in pages), len(pages), lambda: _extract_all(run.pages))
    size = sum(len(text.encode()) for text in texts)
    for name, work in _of_texts(texts).items():
        parts[name] = (size, len(texts), work)
    beside = {name: work for name, work in _datatrove(texts, run.pages).items() if name in parts}
    ours: dict[str, list[float]] = {name: [] for name in parts}
    its: dict[str, list[float]] = {name: [] for name in beside}
    for _ in range(run.rounds):
        for name, (_, _, work) in parts.items():
            ours[name].append(_seconds(work))
            if name in beside:
                its[name].append(beside[name][0] / _seconds(beside[name][1]))
    return [
        PartRate(
            name=name, bytes_per_s=size / statistics.median(ours[name]), documents_per_s=count / statistics.median(ours[name]),
            datatrove_bytes_per_s=statistics.median(its[name]) if name in its else None,
        )
        for name, (size, count, _) in parts.items()
    ]  # fmt: skip


def _texts(run: CurateBench) -> list[str]:
    texts, size = [], 0
    for document in read_documents(run.texts) if run.texts else python_docs():
        texts.append(document.text)
        size += len(document.text.encode())
        if size >= run.max_bytes:
            break
    return texts


def _of_texts(texts: Sequence[str]) -> dict[str, Callable[[], None]]:
    reference = sum(token_counts(batch) for batch in _batches(texts))
    sets: Mapping[str, Rules] = {
        "heuristics: repetition": Rules(repetition=Repetition(), divergence=None),
        "heuristics: divergence": Rules(repetition=None, divergence=Divergence()),
        "heuristics: Gopher quality": Rules(**_NO_RULES, gopher_quality=GopherQuality()),
        "heuristics: Gopher repetition": Rules(**_NO_RULES, gopher_repetition=GopherRepetition()),
        "heuristics: C4": Rules(**_NO_RULES, c4=C4()),
        "heuristics: all together": Rules(gopher_quality=GopherQuality(), gopher_repetition=GopherRepetition(), c4=C4()),
    }
    minhash = MinHash()
    works: dict[str, Callable[[list[str]], object]] = {
        "personal data": lambda batch: [find(text) for text in batch],
        "MinHash signatures": lambda batch: signatures(batch, minhash),
        "line hashes": line_hashes,
    }
    for name, rules in sets.items():
        works[name] = partial(_measure, settings=Heuristics(default=rules), reference=reference)
    return {name: lambda work=work: [work(batch) for batch in _batches(texts)] for name, work in works.items()}


def _measure(batch: list[str], *, settings: Heuristics, reference: np.ndarray) -> object:
    return measure(batch, settings, language="en", reference=reference)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    return (list(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH))


def _extract_all(paths: Sequence[str]) -> None:
    for page in _pages(paths):
        main_text(page.body, page.encoding)


def _pages(paths: Sequence[str]) -> Iterator[Raw]:
    for file in find_inputs(paths):
        for found in read(file, Limits()):
            if isinstance(found, Raw) and isinstance(found.body, bytes):
                yield found


def _datatrove(texts: Sequence[str], pages: Sequence[str]) -> dict[str, tuple[int, Callable[[], None]]]:
    """Its parts with the bytes that each is measured on; empty where it is not installed."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
        from datatrove.pipeline.extractors import Trafilatura
        from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
        from datatrove.utils.hashing import HashConfig
    except ModuleNotFoundError:
        return {}
    few, size = [], 0
    for text in texts:
        if len(text) <= 2**18:
            few.append(text)
            size += len(text.encode())
        if size >= 2**20:
            break

    def filtering(judge) -> Callable[[], None]:
        return lambda: [judge.filter(Document(text=text, id=str(number))) for number, text in enumerate(few)]

    signer = MinhashDedupSignature(output_folder=tempfile.mkdtemp(), config=MinhashConfig(hash_config=HashConfig(hash_fc="sha1")))
    parts = {
        "heuristics: Gopher quality": (size, filtering(GopherQualityFilter())),
        "heuristics: Gopher repetition": (size, filtering(GopherRepetitionFilter())),
        "heuristics: C4": (size, filtering(C4QualityFilter())),
        "MinHash signatures": (size, lambda: [signer.get_signature(signer.get_shingles(text)) for text in few]),
    }
    if pages:
        bodies = [page.body.decode(page.encoding, "replace") for page in islice(_pages(pages), 30)]
        extractor = Trafilatura()
        parts["pages to text"] = (
            sum(len(body.encode()) for body in bodies), lambda: [extractor.extract(body) for body in bodies]
        )  # fmt: skip
    return parts


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _whole(run: CurateBench) -> Iterator[str]:
    """The pipeline without writing, from files to kept documents, by the clock."""
    sources = {name: Source(paths=paths) for name, paths in (("pages", run.pages), ("texts", run.texts)) if paths}
    seconds: dict[int, float] = {}
    for workers in run.workers:
        with tempfile.TemporaryDirectory() as place:
            whole = Curation(name="bench", sources=sources, engine=Engine(workers=workers))
            start = time.perf_counter()
            curated = curate(whole, Path(place))
            seconds[workers] = time.perf_counter() - start
        size, count = curated.outcomes[0].facts["bytes_in"], curated.outcomes[0].facts["documents_in"]
        ratio = seconds[run.workers[0]] / seconds[workers]
        name = f"whole, {workers} worker(s), by the clock"
        yield f"{name:34}{size / 1e6 / seconds[workers]:>8.1f}{count / seconds[workers]:>13,.0f}{ratio:>18.2f}x"

"""A curation run as one value, and its stages one after another: section 3.1 of the paper but for what is learned."""

from __future__ import annotations

import os
import re
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama3_jax.curation.engine import Engine, Scheduler
from llama3_jax.curation.partition import Context, Outcome, Partition
from llama3_jax.curation.read.read import find_inputs
from llama3_jax.curation.stages.decontaminate import Decontaminate, decontaminate
from llama3_jax.curation.stages.domains import Domains, Privacy, filter_domains, treat_personal_data
from llama3_jax.curation.stages.exact_duplicates import (
    SameContent,
    SameUrl,
    deduplicate_contents,
    deduplicate_urls,
)
from llama3_jax.curation.stages.heuristics import HeuristicRules, judge_heuristics
from llama3_jax.curation.stages.languages import Languages, identify_languages
from llama3_jax.curation.stages.lines import Lines, deduplicate_lines
from llama3_jax.curation.stages.near_duplicates import NearDuplicates, near_duplicates
from llama3_jax.curation.stages.reading import Reading, SourceFiles, read_sources
from llama3_jax.curation.stages.write import Write, Written, write_documents
from llama3_jax.tokenizer.object_store import is_url

ROOT = "LLAMA3_JAX_DATA"
"""The environment variable that says where the paths of sources begin, unless the run file does."""
_MACHINE_SUFFIXES = (".html", ".htm", ".rst", ".txt", ".md")


STAGES: Mapping[str, Callable[[Context, Sequence[Partition], Any], Outcome]] = {
    "domains": filter_domains,
    "personal_data": treat_personal_data,
    "languages": identify_languages,
    "urls": deduplicate_urls,
    "exact_duplicates": deduplicate_contents,
    "near_duplicates": near_duplicates,
    "lines": deduplicate_lines,
    "heuristics": judge_heuristics,
    # learned classifiers of quality and topic have their place here, between what is counted and what is written
    "decontaminate": decontaminate,
}
"""What comes between reading and writing, in order; each has a field of the same name in `Curation`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Input files of one origin."""

    paths: tuple[str, ...]
    """Files, directories, patterns and URLs; relative ones begin at `root`."""
    mix: str | None = None
    """The name under which the shards of several sources go together; null: the source's own."""
    language: str = ""
    """Where a record does not say."""
    license: str = ""
    """Where a record does not say."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """A run of `llama3 curate`: sources, then stages in their order; a stage that is null is left out."""

    name: str
    """Of the run directory, below --runs."""
    root: str | None = None
    """Where relative paths begin; null: the directory of the environment variable LLAMA3_JAX_DATA."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    on_this_machine: bool = False
    """Where no root is given, take HTML and text documentation found on this machine instead of `sources`, and leave out
    the stages that name files below it."""
    engine: Engine = Engine()
    reading: Reading = Reading()
    domains: Domains | None = Domains()
    personal_data: Privacy | None = Privacy()
    languages: Languages | None = None
    urls: SameUrl | None = SameUrl()
    exact_duplicates: SameContent | None = SameContent()
    near_duplicates: NearDuplicates | None = NearDuplicates()
    lines: Lines | None = Lines()
    heuristics: HeuristicRules | None = HeuristicRules()
    decontaminate: Decontaminate | None = None
    write: Write | None = None

    def __post_init__(self):
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"name={self.name!r} must name a directory: letters, digits, '_', '.', '-', no '.' first")
        if not self.sources:
            raise ValueError("sources is empty: name at least one, with its paths")
        for name in (*self.sources, *self.groups.values()):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(f"source or mix {name!r}: use letters, digits, '_', '.', '-', since it names files")
        for stage in STAGES:
            for name in getattr(getattr(self, stage), "sources", None) or ():
                if name not in self.sources:
                    raise ValueError(f"{stage}.sources names {name!r}; the sources are {', '.join(self.sources)}")

    @property
    def groups(self) -> dict[str, str]:
        """Source -> the name of its shards."""
        return {name: source.mix or name for name, source in self.sources.items()}


@dataclass(frozen=True)
class Curated:
    """What a run has come to."""

    outcomes: tuple[Outcome, ...]
    written: Written | None
    partitions: tuple[Partition, ...]
    """Of the last stage before writing."""


def placed(run: Curation, say: Callable[[str], None] = print) -> Curation:
    """The run with every path in its place: below the root, or on this machine where there is none.

    Raises: ValueError if relative paths have no root.
    """
    root = run.root or os.environ.get(ROOT)
    if root is not None:
        if not is_url(root) and not Path(root).expanduser().is_dir():
            raise ValueError(f"root {root} is no directory; set root=, --data or {ROOT} to where the data lie")
        return _below(run, root)
    if not run.on_this_machine:
        if any(not _is_placed(path) for source in run.sources.values() for path in source.paths):
            raise ValueError(f"the sources have relative paths and no root; give root=DIR, --data DIR, or set {ROOT}")
        return _below(run, ".")
    say(f"no root and no {ROOT}: taking HTML and text documentation of this machine")
    source = Source(paths=tuple(_documentation()))
    without = {
        stage: replace(getattr(run, stage), sources=None)
        for stage in STAGES.keys() - {"languages", "decontaminate"}
        if hasattr(getattr(run, stage), "sources")
    }
    if (heuristics := without.get("heuristics")) is not None:
        rules = heuristics.rules
        plain = {language: replace(kept, dirty_words=None) for language, kept in rules.languages.items()}
        rules = replace(rules, default=replace(rules.default, dirty_words=None), languages=plain)
        without["heuristics"] = replace(heuristics, rules=rules)
    for stage in ("languages", "decontaminate"):
        if getattr(run, stage) is not None:
            say(f"{stage}: left out, since its files lie below the root")
    domains = None if run.domains is None else replace(run.domains, lists={})
    return replace(
        run,
        sources={"documentation": source},
        languages=None,
        decontaminate=None,
        domains=domains,
        on_this_machine=False,
        **without,
    )


def _is_placed(path: str) -> bool:
    return is_url(path) or os.path.isabs(os.path.expanduser(path))


def _below(run: Curation, root: str) -> Curation:
    def place(path: str) -> str:
        return os.path.expanduser(path) if _is_placed(path) else os.path.join(os.path.expanduser(root), path)

    changes: dict = {"sources": {n: replace(s, paths=tuple(map(place, s.paths))) for n, s in run.sources.items()}}
    if run.languages is not None:
        model, labelled = run.languages.model, run.languages.labelled
        changes["languages"] = replace(run.languages, model=model and place(model), labelled=labelled and place(labelled))
    if run.decontaminate is not None:
        evaluations = tuple(map(place, run.decontaminate.evaluations))
        changes["decontaminate"] = replace(run.decontaminate, evaluations=evaluations)
    if run.domains is not None:
        changes["domains"] = replace(run.domains, lists={name: place(path) for name, path in run.domains.lists.items()})
    if run.heuristics is not None:
        rules = run.heuristics.rules

        def of(kept):
            words = kept.dirty_words
            if words is None:
                return kept
            return replace(kept, dirty_words=replace(words, lists={name: place(path) for name, path in words.lists.items()}))

        rules = replace(rules, default=of(rules.default), languages={name: of(kept) for name, kept in rules.languages.items()})
        changes["heuristics"] = replace(run.heuristics, rules=rules)
    if run.write is not None and run.write.tokenizer_path is not None:
        changes["write"] = replace(run.write, tokenizer_path=place(run.write.tokenizer_path))
    return replace(run, **changes)


def _documentation() -> Iterator[str]:
    """Patterns of HTML and text documentation that is on this machine."""
    paths = sysconfig.get_paths()
    for place in ("/usr/share/doc", os.path.join(paths["data"], "share", "doc"), paths["purelib"], paths["stdlib"]):
        there = {os.path.splitext(name)[1] for _, _, names in os.walk(place) for name in names}
        yield from (os.path.join(place, "**", f"*{suffix}") for suffix in _MACHINE_SUFFIXES if suffix in there)


def source_files(run: Curation) -> list[SourceFiles]:
    """The input files of each source, in the order of the run file; a file of two sources belongs to the first.

    Raises: as `find_inputs`.
    """
    found, taken = [], set()
    for name, source in run.sources.items():
        files = tuple(file for file in find_inputs(source.paths) if file.path not in taken)
        taken |= {file.path for file in files}
        if not files:
            raise ValueError(f"source {name}: no file of its own in {', '.join(source.paths[:3])}")
        found.append(SourceFiles(name=name, files=files, language=source.language, license=source.license))
    return found


def curate(
    run: Curation,
    directory: Path,
    *,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    progress: Callable[[str, int, int], None] = lambda step, done, of: None,
) -> Curated:
    """Runs every stage below `directory`/stages; what is done already is taken as it is.

    Args:
        run: placed.
        finished: told the outcome of each stage as it ends.
        progress: told of each step the pieces done and all.
    """
    context = Context(directory / "stages", Scheduler(run.engine), progress)
    outcomes: list[Outcome] = []

    def ended(outcome: Outcome, began: float) -> None:
        outcomes.append(replace(outcome, seconds=time.perf_counter() - began))
        finished(outcomes[-1])

    began = time.perf_counter()
    read, extracted = read_sources(context, source_files(run), run.reading)
    ended(read, time.perf_counter())  # in one pass with extraction, which has the time of both
    ended(extracted, began)
    for name, stage in STAGES.items():
        if (settings := getattr(run, name)) is not None:
            began = time.perf_counter()
            ended(stage(context, outcomes[-1].partitions, settings), began)
    partitions = outcomes[-1].partitions
    written = None if run.write is None else write_documents(context, partitions, run.write, run.groups)
    return Curated(tuple(outcomes), written, partitions)

"""Pieces of work: done once, done again for another config, code or input, and never half there."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from llama3_jax.curation.code_version import code_version
from llama3_jax.curation.deduplicate.urls import normal_url, url_keys
from llama3_jax.curation.engine import Engine, PieceFailed, Scheduler
from llama3_jax.curation.stages.languages import identify_languages
from llama3_jax.curation.step import Task, run_step


@pytest.fixture(scope="module")
def scheduler():
    """Its processes import the functions of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        yield Scheduler(Engine(workers=1))


def write(inputs, directory, *, log, ending=""):
    with open(log, "a") as file:
        file.write(f"{inputs}\n")
    (directory / "out.txt").write_text(f"{inputs}{ending}")
    return {"length": len(inputs)}


def fail(inputs, directory):
    (directory / "half.txt").write_text("half")
    if inputs == "bad":
        raise ValueError("this one cannot be done")
    return {}


def die_once(inputs, directory, *, log):
    """The process that does `last` is killed the first time."""
    with open(log, "a") as file:
        file.write(f"{inputs} {os.getpid()}\n")
    if inputs == "last" and log.read_text().count("last") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def tasks(*names):
    return [Task(inputs=name, digest=name, size=len(name)) for name in names]


def test_finished_pieces_are_not_done_again(tmp_path, scheduler):
    log = tmp_path / "log"
    work = partial(write, log=log)
    first = run_step(tmp_path / "step", tasks("a", "bb"), work, settings=1, scheduler=scheduler)
    again = run_step(tmp_path / "step", tasks("a", "bb"), work, settings=1, scheduler=scheduler)
    assert first == again
    assert [piece.facts["length"] for piece in first] == [1, 2]
    assert sorted(log.read_text().split()) == ["a", "bb"]


@pytest.mark.parametrize("change", ["settings", "input", "missing file", "damaged marker", "cut file"])
def test_a_changed_or_damaged_piece_is_done_again_alone(tmp_path, scheduler, change):
    log = tmp_path / "log"
    work = partial(write, log=log)
    run_step(tmp_path / "step", tasks("a", "b"), work, settings=1, scheduler=scheduler)
    log.unlink()
    now, settings = tasks("a", "b"), 1
    match change:
        case "settings":
            settings = 2
        case "input":
            now = tasks("a", "c")
        case "missing file":
            (tmp_path / "step/00001/out.txt").unlink()
        case "damaged marker":
            (tmp_path / "step/00001/done.json").write_text("{")
        case "cut file":
            (tmp_path / "step/00001/out.txt").write_text("")
    run_step(tmp_path / "step", now, work, settings=settings, scheduler=scheduler)
    assert sorted(log.read_text().split()) == {"settings": ["a", "b"], "input": ["c"]}.get(change, ["b"])
    assert (tmp_path / "step/00001/out.txt").read_text() == ("c" if change == "input" else "b")


def test_processes_serve_one_step_after_another_and_may_die(tmp_path, scheduler):
    two = Scheduler(Engine(workers=2))

    def processes(step, *names):
        log = tmp_path / f"{step}.log"
        done = run_step(tmp_path / step, tasks(*names), partial(die_once, log=log), settings=None, scheduler=two)
        assert len(done) == len(names)
        return {line.split()[1] for line in log.read_text().splitlines()}

    first = processes("first", *"abcdef")
    assert len(first) <= 2 and str(os.getpid()) not in first
    assert processes("second", *"abcdef") <= first
    assert len(processes("third", "a", "b", "last")) >= 2, "one died, and another did its piece"
    assert len(processes("fourth", *"abcdef")) <= 2


def test_what_fails_is_named_and_leaves_nothing(tmp_path, scheduler):
    with pytest.raises(PieceFailed, match="this one cannot be done"):
        run_step(tmp_path / "step", tasks("good", "bad"), fail, settings=None, scheduler=scheduler)
    assert [name for name in os.listdir(tmp_path / "step") if name != "00000"] == []


def test_leftovers_of_killed_processes_and_surplus_pieces_go(tmp_path, scheduler):
    log = tmp_path / "log"
    run_step(tmp_path / "step", tasks("a", "b", "c"), partial(write, log=log), settings=1, scheduler=scheduler)
    (tmp_path / "step/00001.partial-77-dead").mkdir()
    run_step(tmp_path / "step", tasks("a"), partial(write, log=log), settings=1, scheduler=scheduler)
    assert os.listdir(tmp_path / "step") == ["00000"]


def test_code_is_what_is_reached_by_imports_and_by_functions_that_are_given():
    keys_of_urls, keys_of_languages = partial(write, keys=url_keys), partial(write, keys=identify_languages)
    assert len({code_version(write), code_version(keys_of_urls), code_version(keys_of_languages)}) == 3
    assert code_version(keys_of_urls) == code_version(partial(write, keys=normal_url))  # of the same module


def test_pieces_are_told_as_they_end(scheduler, tmp_path):
    seen = []
    run_step(tmp_path / "step", tasks("a", "b", "c"), partial(write, log=tmp_path / "log"), settings=1, scheduler=scheduler,
             report=lambda done, of: seen.append((done, of)))  # fmt: skip
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

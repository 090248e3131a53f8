"""A signal stops the program at once where that does no harm, and waits where it would."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llama3_jax.train.preemption import EXIT_INTERRUPTED, Insisted, Interrupted, Preemption

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
REPEATED = [signal.SIGTERM, signal.SIGUSR1]


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # an instruction at which the handler surely has run


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_at_once_and_is_no_exception_to_swallow(number):
    with Preemption() as preemption:
        assert preemption.requested is None
        with pytest.raises(Interrupted, match=number.name):
            send(number)
        assert preemption.requested == number.name
    assert not issubclass(Interrupted, Exception)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_deferred_region_waits_for_its_end(number):
    done = []
    with Preemption() as preemption, pytest.raises(Interrupted, match=number.name), preemption.deferred():
        send(number)
        assert preemption.requested == number.name
        done.append("all of it")
    assert done


@pytest.mark.parametrize("number", SIGNALS)
def test_or_for_the_next_window(number):
    done = []
    with Preemption() as preemption, pytest.raises(Interrupted, match=number.name), preemption.deferred():
        send(number)
        with preemption.window():
            done.append("the window was entered")
    assert not done


def test_a_signal_in_a_window_interrupts_at_once_and_lets_the_region_save():
    done = []
    with Preemption() as preemption, preemption.deferred():
        with pytest.raises(Interrupted, match="SIGTERM"), preemption.window():
            send(signal.SIGTERM)
            done.append("the rest of the window")
        send(signal.SIGUSR1)
        done.append("saved")
        with pytest.raises(Interrupted), preemption.window():
            done.append("the next window")
        preemption.requested = None  # or leaving the region would raise it once more
    assert done == ["saved"]


def test_regions_nest():
    with Preemption() as preemption, pytest.raises(Interrupted), preemption.deferred():
        with preemption.deferred():
            send(signal.SIGTERM)
        assert preemption.requested == "SIGTERM", "the inner one does not end the outer"


@pytest.mark.parametrize("number", REPEATED)
def test_a_scheduler_may_repeat_itself(number):
    with Preemption() as preemption, pytest.raises(Interrupted) as stop, preemption.deferred():
        send(signal.SIGTERM)
        send(number)
    assert not isinstance(stop.value, Insisted)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_person_who_insists_interrupts_a_deferred_region(number):
    with Preemption() as preemption, pytest.raises(Insisted, match=number.name), preemption.deferred():
        send(number)
        send(signal.SIGINT)
        raise AssertionError("not reached")


def test_the_previous_handlers_return():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Preemption(patience_s=1):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]


def test_another_thread_leaves_the_signals_alone():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def enter():
        with Preemption(patience_s=1) as preemption, preemption.deferred():
            handlers = [signal.getsignal(number) for number in SIGNALS]
            seen.append((preemption.requested, handlers))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


class Program:
    """A process that runs the line `body` and has said "ready"."""

    def __init__(self, body: str, *, patience_s: float):
        program = f"""
import hashlib, sys, time
from llama3_jax.train.preemption import EXIT_INTERRUPTED, Interrupted, Preemption

def outside_of_python(seconds):
    '''A call that no signal ends and that lets other threads run, as XLA's compiler does.'''
    started = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(100_000 * seconds / (time.perf_counter() - started)))

with Preemption(patience_s={patience_s}) as preemption:
    preemption.last_words = lambda: "last words"
    print("ready", end="", flush=True)
    try:
        {body}
    except Interrupted as stop:
        print(f", {{stop}}", end="", flush=True)
        sys.exit(EXIT_INTERRUPTED)
    print(", went on")
"""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.read(5) == "ready"

    def stop(self) -> tuple[int, str, str]:
        """(status, the rest of standard output, standard error)"""
        time.sleep(0.2)
        self.process.terminate()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def test_a_process_inside_another_languages_call_is_ended_for_it():
    program = Program("outside_of_python(30)", patience_s=0.2)
    sent = time.monotonic()
    assert program.stop() == (EXIT_INTERRUPTED, "", "\nstopped by SIGTERM; last words\n")
    assert time.monotonic() - sent < 5


def test_nor_does_a_library_that_swallows_everything_keep_it():
    """As that of JAX which loads the plugins of accelerators."""
    swallowing = "try: time.sleep(20)\n        except: pass\n        time.sleep(20)"
    program = Program(swallowing, patience_s=0.2)
    sent = time.monotonic()
    assert program.stop() == (EXIT_INTERRUPTED, "", "\nstopped by SIGTERM; last words\n")
    assert time.monotonic() - sent < 5


def test_it_answers_itself_where_the_call_ends_in_time():
    program = Program("outside_of_python(1)", patience_s=30)
    assert program.stop() == (EXIT_INTERRUPTED, ", stopped by SIGTERM", "")


def test_what_is_deferred_is_never_cut_off():
    program = Program("with preemption.deferred(): outside_of_python(2); print(', saved', end='')", patience_s=0.1)
    status, out, _ = program.stop()
    assert (status, out) == (EXIT_INTERRUPTED, ", saved, stopped by SIGTERM")


def test_nor_is_a_window_of_it_where_what_came_before_is_not_saved_yet():
    body = (
        "try:\n            with preemption.deferred():\n                with preemption.window(): outside_of_python(2)\n"
        "        finally: print(', saved', end='')"
    )
    status, out, _ = Program(body, patience_s=0.1).stop()
    assert (status, out) == (EXIT_INTERRUPTED, ", saved, stopped by SIGTERM")


def test_nor_is_a_checkpoint_on_its_way(tmp_path):
    """A thread writes it, while the main thread is outside of Python."""
    saved = tmp_path / "saved"
    writing = (
        f"import threading; write = lambda: (time.sleep(1.5), open({str(saved)!r}, 'w').write('whole')); "
        "thread = threading.Thread(target=write); preemption.saving = thread.is_alive; thread.start(); outside_of_python(30)"
    )
    status, *_ = Program(writing, patience_s=0.1).stop()
    assert status == EXIT_INTERRUPTED and saved.read_text() == "whole"


def test_without_patience_it_is_waited_for():
    """A notebook is not ended."""
    status, out, _ = Program("outside_of_python(2)", patience_s=None).stop()
    assert (status, out) == (EXIT_INTERRUPTED, ", stopped by SIGTERM")

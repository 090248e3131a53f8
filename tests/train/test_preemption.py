import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llama3_jax.train.preemption import EXIT_INTERRUPTED, Interrupted, Preemption

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # an instruction at which the handler surely has run


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_deferred_region_is_a_request(number):
    with Preemption() as preemption, preemption.deferred():
        assert preemption.active and preemption.requested is None
        send(number)
        assert preemption.requested == number.name


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_elsewhere_interrupts_at_once_and_is_no_exception_to_swallow(number):
    with Preemption() as preemption:
        with preemption.deferred():
            pass
        with pytest.raises(Interrupted, match=number.name):
            send(number)
    assert not issubclass(Interrupted, Exception)


def test_a_second_signal_interrupts_a_deferred_region():
    with Preemption() as preemption, pytest.raises(Interrupted, match="SIGTERM"), preemption.deferred():
        send(signal.SIGUSR1)
        assert preemption.requested == "SIGUSR1"
        send(signal.SIGTERM)
    assert preemption.requested == "SIGUSR1"


def test_regions_nest():
    with Preemption() as preemption, preemption.deferred():
        with preemption.deferred():
            pass
        send(signal.SIGTERM)
        assert preemption.requested == "SIGTERM"


def test_the_previous_handlers_return():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Preemption() as preemption:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not preemption.active


def test_another_thread_leaves_the_signals_alone():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def enter():
        with Preemption() as preemption, preemption.deferred():
            handlers = [signal.getsignal(number) for number in SIGNALS]
            seen.append((preemption.active, preemption.requested, handlers))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, None, before)]


def test_a_process_told_to_stop_saves_and_exits_with_its_status(tmp_path):
    program = """
import sys, time
from llama3_jax.train.preemption import EXIT_INTERRUPTED, Preemption
with Preemption() as preemption, preemption.deferred():
    print("ready", flush=True)
    while not preemption.requested:
        time.sleep(0.01)
    open(sys.argv[1], "w").write(preemption.requested)
    sys.exit(EXIT_INTERRUPTED)
"""
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(saved)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(timeout=10) == EXIT_INTERRUPTED
    assert saved.read_text() == "SIGTERM"

"""`llama3 doctor` reports what stops training, and how to mend it, without hanging on a runtime that does."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llama3_jax.commands import doctor
from llama3_jax.commands.doctor import Devices, Findings, Problem

pytestmark = pytest.mark.smoke

CPU, GPU = Devices("cpu", "cpu", 8, 1, 0.4), Devices("gpu", "NVIDIA H100 80GB HBM3", 8, 1)
LIBRARIES = {"nccl": "2.28.3", "cuDNN loaded": "91400"}
FOUND = Findings("hopper", True, 2e-3, LIBRARIES, True)


def test_requirements_are_those_of_the_package():
    wanted = doctor.requirements()
    assert wanted[""]["jax"] == "0.10.2"
    assert wanted[""]["orbax-checkpoint"].startswith("0.")
    assert "pytest" in wanted["test"]
    assert wanted["gpu"] == {"jax": "0"}


def test_requirements_of_an_installed_package_come_from_its_metadata(monkeypatch, tmp_path):
    lines = ["jax>=0.10.2", "array_record>=0.8.6", 'daft>=0.7; extra == "data"', 'jax[tpu]; extra == "tpu"']
    monkeypatch.setattr(doctor.llama3_jax, "__file__", str(tmp_path / "llama3_jax" / "__init__.py"))
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    assert doctor.requirements() == {
        "": {"jax": "0.10.2", "array_record": "0.8.6"},
        "data": {"daft": "0.7"},
        "tpu": {"jax": "0"},
    }


def test_old_and_missing_packages_come_with_the_line_that_mends_them():
    have = {"jax": "0.9.30", "flax": "0.12.8", "numpy": "2.10.0"}
    wanted = {
        "": {"jax": "0.10.2", "flax": "0.12.8", "numpy": "2.9", "grain": "0.2.18"},
        "data": {"daft": "0.7"},
    }
    jax, grain, daft = doctor.package_problems(wanted, have.get)
    assert "jax 0.9.30 is too old" in jax.what and jax.stops
    assert jax.mend == f'{sys.executable} -m pip install "jax>=0.10.2" --upgrade'
    assert grain.mend.endswith('pip install "grain>=0.2.18"') and grain.stops
    assert "extra 'data'" in daft.what and not daft.stops


@pytest.mark.parametrize(
    ("present", "environment", "mend"),
    [
        ({"gpu": "jax[cuda13]"}, {}, 'install --upgrade "jax[cuda13]"'),
        ({"tpu": "jax[tpu]"}, {}, 'install --upgrade "jax[tpu]"'),
        ({"gpu": "jax[cuda13]"}, {"JAX_PLATFORMS": "cpu"}, "unset JAX_PLATFORMS"),
        ({}, {}, "float32"),
    ],
)
def test_an_accelerator_left_unused_is_noticed(present, environment, mend):
    (problem,) = doctor.device_problems(CPU, present, environment)
    assert mend in problem.mend
    assert not problem.stops
    assert doctor.device_problems(Devices("gpu", "H100", 8, 1), present, environment) == []


@pytest.mark.parametrize(
    ("speed", "mend"), [(0.4, "compute in float32"), (1.1, "compute in float32"), (2.0, "precision=bfloat16")]
)
def test_the_dtype_of_a_cpu_is_measured(speed, mend):
    (problem,) = doctor.device_problems(Devices("cpu", "cpu", 1, 1, speed), {}, {})
    assert f"{speed:.1f} times as fast as float32" in problem.what and mend in problem.mend


def test_an_old_driver_gets_the_cuda_it_can_run(tmp_path):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31\n")
    assert doctor.accelerators(nvidia=version)["gpu"] == "jax[cuda12]"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n")
    assert doctor.accelerators(nvidia=version)["gpu"] == "jax[cuda13]"


def test_a_runtime_that_hangs_is_reported():
    problem = doctor.find_devices(timeout_s=0.5, program="import time; time.sleep(60)")
    assert isinstance(problem, Problem) and problem.stops
    assert "JAX_PLATFORMS=cpu" in problem.mend


def test_a_runtime_that_fails_is_quoted():
    problem = doctor.find_devices(program="raise RuntimeError('CUDA driver too old')")
    assert isinstance(problem, Problem) and problem.stops
    assert "RuntimeError: CUDA driver too old" in problem.what


def test_a_full_disk_stops_training():
    (problem,) = doctor.disk_problems(10**8)
    assert problem.stops and "0.1 GB free" in problem.what
    assert doctor.disk_problems(10**11) == []


@pytest.mark.parametrize(("devices", "code"), [(CPU, 0), (Problem(what="w", mend="m", stops=True), 1)])
def test_the_report_ends_in_a_verdict(monkeypatch, capsys, devices, code):
    monkeypatch.setattr(doctor, "find_devices", lambda: devices)
    monkeypatch.setattr(doctor, "disk_problems", lambda free_bytes: [])
    monkeypatch.setattr(doctor, "requirements", lambda: {"": {"pyyaml": "6.0"}})
    assert doctor.doctor() == code
    report = capsys.readouterr().out
    assert re.search(r"pyyaml +6\.\d", report)
    assert ("ready to train" in report) == (code == 0)


def test_a_gpu_is_reported_with_its_driver_libraries_and_kernel(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "find_devices", lambda: GPU)
    monkeypatch.setattr(doctor, "ask_probe", lambda: FOUND)
    monkeypatch.setattr(doctor, "driver_version", lambda *_: "580.65.06")
    monkeypatch.setattr(doctor, "disk_problems", lambda free_bytes: [])
    monkeypatch.setattr(doctor, "requirements", lambda: {"": {"pyyaml": "6.0"}})
    assert doctor.doctor() == 0
    report = capsys.readouterr().out
    for told in (
        "NVIDIA driver     580.65.06", "attention         hopper, in the compiled program; 2.0e-03 from the reference",
        "CUDA libraries    cuDNN loaded 91400, nccl 2.28.3", "sum over devices  right",
    ):  # fmt: skip
        assert told in report
    monkeypatch.setattr(doctor, "ask_probe", lambda: Problem(what="w", mend="m", stops=True))
    assert doctor.doctor() == 1


@pytest.mark.parametrize(
    ("differs", "told", "stops"),
    [
        ({"in_program": False}, "the compiled program does not call it", True),
        ({"difference": 0.3}, "is 3.0e-01 from the reference", True),
        ({"difference": float("nan")}, "is nan from the reference", True),
        ({"attention": "xla (hopper needs jax 0.11, this is 0.10.2)", "in_program": None}, "slower than the kernels", False),
        ({"libraries": {"cuDNN loaded": "no: cuDNN not found."}}, "cuDNN loaded: cuDNN not found.", True),
        ({"sums": False}, "sum over the devices of this machine is wrong", True),
    ],
)
def test_what_is_wrong_with_an_accelerator_is_named(differs, told, stops):
    (problem,) = doctor.kernel_problems(replace(FOUND, **differs))
    assert told in problem.what and problem.stops is stops and problem.mend
    assert doctor.kernel_problems(FOUND) == []


@pytest.mark.parametrize(
    ("driver", "have", "told"),
    [
        ("550.90.07", {"jax": "0.12.0", "jax-cuda13-plugin": "0.12.0"}, "needs NVIDIA driver 580 or newer, here is 550.90.07"),
        ("580.65.06", {"jax": "0.12.0", "jax-cuda13-plugin": "0.11.2"}, "jax-cuda13-plugin 0.11.2 is not of jax 0.12.0"),
        ("510.39.01", {"jax": "0.12.0", "jax-cuda12-plugin": "0.12.0"}, "needs NVIDIA driver 525"),
    ],
)
def test_a_driver_and_a_plugin_fit_jax(driver, have, told):
    (problem,) = doctor.driver_problems(driver, have.get)
    assert told in problem.what and problem.stops
    assert doctor.driver_problems("580.65.06", {"jax": "0.12.0", "jax-cuda13-plugin": "0.12.0.1"}.get) == []
    assert doctor.driver_problems(None, {"jax": "0.12.0"}.get) == []


def test_the_probe_answers_here():
    """On a CPU `auto` is no kernel, so there is none to look for in the program; the rest is the same everywhere."""
    pytest.importorskip("jax")
    found = doctor.ask_probe()
    assert isinstance(found, Findings), found
    assert found.attention == "xla" and found.in_program is None and 0 < found.difference < doctor.LARGEST_DIFFERENCE
    assert isinstance(doctor.ask_probe(program=("-c", "raise RuntimeError('no kernel image')")), Problem)
    assert "did not end within" in doctor.ask_probe(0.2, ("-c", "import time; time.sleep(60)")).what


def test_a_kernel_is_looked_for_by_its_name_in_the_program():
    pytest.importorskip("jax")
    from llama3_jax.commands.probe import in_program

    assert in_program("hopper", 'custom_call_target="mosaic_gpu_v2"') and not in_program("hopper", "fusion")
    assert in_program("tpu", "tpu_custom_call") and in_program("xla (hopper needs jax 0.11)", "fusion") is None


def test_jax_answers_here():
    pytest.importorskip("jax")
    devices = doctor.find_devices()
    assert isinstance(devices, Devices), devices
    assert devices.count >= 1
    assert devices.platform != "cpu" or 0.01 < devices.bfloat16_speed < 100


def test_importing_the_doctor_does_not_start_jax():
    source = Path(doctor.__file__).read_text()
    assert not re.search(r"^\s*(import|from) jax\b", source.replace(doctor._ASK_JAX, ""), re.MULTILINE)

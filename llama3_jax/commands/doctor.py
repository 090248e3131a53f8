"""`llama3 doctor`: what is installed, which devices jax sees, what is wrong, and the line that mends it."""

import ast
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama3_jax

DEVICE_TIMEOUT_S, PROBE_TIMEOUT_S = 60, 300
LEAST_DISK_BYTES = 2 * 10**9
FASTER = 1.3
"""From this speed of bfloat16 on it is worth a try: casts and elementwise work take some of it back."""
GB = 10**9

OLDEST_DRIVER = {"cuda12": 525, "cuda13": 580}
"""Of NVIDIA, for each of jax's plugins."""
LARGEST_DIFFERENCE = 1e-2
"""Of our attention from the reference, relative, in bfloat16; 4e-3 is what rounding makes."""

_PIP = f"{sys.executable} -m pip install"
_PROBE = ("-m", "llama3_jax.commands.probe")
_ASK_JAX = """
import jax, json, time
found = jax.devices()

def seconds(dtype):
    x, multiply = jax.numpy.ones((1024, 1024), dtype), jax.jit(jax.numpy.matmul)
    multiply(x, x).block_until_ready()
    started = time.perf_counter()
    for _ in range(5):
        multiply(x, x).block_until_ready()
    return time.perf_counter() - started

speed = seconds("float32") / seconds("bfloat16") if found[0].platform == "cpu" else None
print(json.dumps([found[0].platform, found[0].device_kind, len(found), jax.process_count(), speed]))
"""


@dataclass(frozen=True, kw_only=True)
class Problem:
    what: str
    mend: str
    """A line to run, or what to do."""
    stops: bool
    """Whether training cannot run before this is mended."""


@dataclass(frozen=True)
class Devices:
    platform: str
    """`cpu`, `gpu` or `tpu`."""
    kind: str
    count: int
    num_hosts: int
    bfloat16_speed: float | None = None
    """Of a CPU: how much faster than float32 it multiplies bfloat16 matrices."""


@dataclass(frozen=True)
class Findings:
    """Of `commands.probe`, on an accelerator."""

    attention: str
    """What `auto` takes on this device for Llama's heads, and why it is not the kernel, where it is not."""
    in_program: bool | None
    """Whether the compiled program calls the kernel; None where `auto` takes none."""
    difference: float
    """Of its outputs and gradients from the reference's, relative, the worst."""
    libraries: dict[str, str]
    """CUDA libraries that jax has loaded or would load, with versions."""
    sums: bool | None
    """Whether a sum over all local devices is right: over NCCL, on GPUs; None for a single device."""


def doctor() -> int:
    """Prints versions, devices, each problem with the line that mends it; 0 if training can run, else 1."""
    wanted = requirements()
    print(f"llama3_jax {llama3_jax.__version__} on Python {platform.python_version()}, {platform.platform()}")
    for name in [*wanted[""], "jaxlib", "libtpu"]:
        print(f"  {name:<18}{installed_version(name) or 'not installed'}")

    devices = find_devices()
    free_bytes = shutil.disk_usage(".").free
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print("this machine")
    if isinstance(devices, Devices):
        hosts = f" on {devices.num_hosts} hosts" if devices.num_hosts > 1 else ""
        print(f"  {'devices':<18}{devices.count} x {devices.platform} ({devices.kind}){hosts}")
    driver, probed = driver_version(), None
    if driver:
        print(f"  {'NVIDIA driver':<18}{driver}")
    if isinstance(devices, Devices) and devices.platform != "cpu":
        probed = ask_probe()
        if isinstance(probed, Findings):
            for line in findings_told(probed):
                print(f"  {line}")
    print(f"  {'CPU cores':<18}{os.cpu_count()}")
    print(f"  {'memory':<18}{memory_bytes / GB:.1f} GB")
    print(f"  {'free disk':<18}{free_bytes / GB:.1f} GB in {Path.cwd()}")

    found = package_problems(wanted, installed_version) + disk_problems(free_bytes)
    found += device_problems(devices, accelerators(), os.environ) if isinstance(devices, Devices) else [devices]
    found += driver_problems(driver, installed_version)
    found += kernel_problems(probed) if isinstance(probed, Findings) else [probed] if probed else []
    for problem in sorted(found, key=lambda problem: not problem.stops):
        print(f"{'PROBLEM' if problem.stops else 'note'}: {problem.what}\n    {problem.mend}")
    stopped = any(problem.stops for problem in found)
    print("training cannot run here before the problems above are mended" if stopped else "ready to train")
    return int(stopped)


def requirements() -> dict[str, dict[str, str]]:
    """Extra (`""`: always needed) to package to oldest version, from the checkout or as installed."""
    setup = Path(llama3_jax.__file__).parents[1] / "setup.py"
    if setup.is_file():
        calls = [node for node in ast.walk(ast.parse(setup.read_text())) if isinstance(node, ast.Call)]
        given = {word.arg: word.value for call in calls for word in call.keywords}
        extras = ast.literal_eval(given["extras_require"])
        lines = {"": ast.literal_eval(given["install_requires"]), **extras}
    else:
        lines = {"": []}
        for line in importlib.metadata.requires("llama3_jax") or []:
            extra = re.search(r"extra == ['\"](\w+)", line)
            lines.setdefault(extra[1] if extra else "", []).append(line)
    parts = {extra: [re.match(r"([\w-]+)[^>;]*(?:>=([\d.]+))?", line) for line in some] for extra, some in lines.items()}
    return {extra: {part[1]: part[2] or "0" for part in some if part} for extra, some in parts.items()}


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_problems(wanted: Mapping[str, Mapping[str, str]], version_of: Callable[[str], str | None]) -> list[Problem]:
    """Packages that are missing or older than they may be; those of an extra only as a note."""
    found = []
    for extra, oldest in wanted.items():
        if extra in ("tpu", "gpu", "test"):
            continue
        for name, least in oldest.items():
            have, line = version_of(name), f'{_PIP} "{name}>={least}"'
            if have is None:
                what = f"{name} is not installed" + (f" (needed by the extra {extra!r})" if extra else "")
                found.append(Problem(what=what, mend=line, stops=not extra))
            elif _release(have) < _release(least):
                what = f"{name} {have} is too old; {least} is the oldest that works"
                found.append(Problem(what=what, mend=f"{line} --upgrade", stops=not extra))
    return found


def disk_problems(free_bytes: int) -> list[Problem]:
    if free_bytes >= LEAST_DISK_BYTES:
        return []
    least = f"{LEAST_DISK_BYTES / GB:.0f} GB"
    what = f"{free_bytes / GB:.1f} GB free in {Path.cwd()}; checkpoints need {least} or more"
    return [Problem(what=what, mend="free some, or write elsewhere with --runs DIR", stops=True)]


def find_devices(timeout_s: float = DEVICE_TIMEOUT_S, program: str = _ASK_JAX) -> Devices | Problem:
    """The devices as jax sees them, asked in a process of its own so that one that hangs can be ended."""
    try:
        asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Problem(
            what=f"jax did not name its devices within {timeout_s:.0f} s: another process may hold the "
            "accelerator, or this is one host of a pod and the others are not started",
            mend="end the other process or start every host; to go on without: export JAX_PLATFORMS=cpu",
            stops=True,
        )
    if asked.returncode:
        said = (asked.stderr.strip() or f"exit status {asked.returncode}").splitlines()[-1]
        return Problem(what=f"jax does not start: {said}", mend=f"{_PIP} --upgrade jax jaxlib", stops=True)
    return Devices(*json.loads(asked.stdout.splitlines()[-1]))


def ask_probe(timeout_s: float = PROBE_TIMEOUT_S, program: Sequence[str] = _PROBE) -> Findings | Problem:
    """What our attention does on the accelerator, and the libraries there, asked as the devices are."""
    try:
        asked = subprocess.run([sys.executable, *program], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        what = f"attention on the accelerator did not end within {timeout_s:.0f} s"
        return Problem(what=what, mend="end other processes on it and ask again; else train with attention=xla", stops=True)
    if asked.returncode:
        said = (asked.stderr.strip() or f"exit status {asked.returncode}").splitlines()[-1]
        return Problem(what=f"attention does not run on the accelerator: {said}", mend="train with attention=xla", stops=True)
    return Findings(**json.loads(asked.stdout.splitlines()[-1]))


def findings_told(found: Findings) -> Iterator[str]:
    where = {True: ", in the compiled program", False: ", NOT in the compiled program", None: ""}[found.in_program]
    yield f"{'attention':<18}{found.attention}{where}; {found.difference:.1e} from the reference"
    if found.libraries:
        yield f"{'CUDA libraries':<18}{', '.join(f'{name} {version}' for name, version in sorted(found.libraries.items()))}"
    if found.sums is not None:
        yield f"{'sum over devices':<18}{'right' if found.sums else 'WRONG'}"


def kernel_problems(found: Findings) -> list[Problem]:
    """A kernel that is not in use, or wrong; libraries that do not load; devices that do not add up."""
    problems = []
    if found.in_program is False:
        what = f"attention={found.attention} was chosen, but the compiled program does not call it"
        problems.append(Problem(what=what, mend=f"{_PIP} --upgrade jax jaxlib", stops=True))
    if not found.difference <= LARGEST_DIFFERENCE:
        what = f"attention={found.attention} is {found.difference:.1e} from the reference, rounding makes 4e-3"
        problems.append(Problem(what=what, mend="train with attention=xla, and report it", stops=True))
    if "hopper needs jax" in found.attention:
        what = f"attention is {found.attention}: slower than the kernels for this GPU"
        problems.append(Problem(what=what, mend=f'{_PIP} --upgrade "jax[cuda13]"', stops=False))
    for name, version in found.libraries.items():
        if version.startswith("no: "):
            problems.append(Problem(what=f"{name}: {version[4:]}", mend=f'{_PIP} --upgrade "jax[cuda13]"', stops=True))
    if found.sums is False:
        what = "a sum over the devices of this machine is wrong, so gradients would be"
        problems.append(Problem(what=what, mend="export NCCL_P2P_DISABLE=1 and ask again: the links between GPUs", stops=True))
    return problems


def driver_version(nvidia: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    found = re.search(r"\s(\d{3}\.[\d.]+)", nvidia.read_text()) if nvidia.exists() else None
    return found and found[1]


def driver_problems(driver: str | None, version_of: Callable[[str], str | None]) -> list[Problem]:
    """A plugin of jax for which the driver is too old, or which is of another jax."""
    problems = []
    for cuda, oldest in OLDEST_DRIVER.items():
        if not (plugin := version_of(f"jax-{cuda}-plugin")):
            continue
        if driver and int(driver.split(".")[0]) < oldest:
            what = f"jax-{cuda}-plugin needs NVIDIA driver {oldest} or newer, here is {driver}"
            mend = "update the driver" if cuda == "cuda12" else f'update the driver, or {_PIP} "jax[cuda12]"'
            problems.append(Problem(what=what, mend=mend, stops=True))
        if (jax := version_of("jax")) and _release(plugin)[:2] != _release(jax)[:2]:
            what = f"jax-{cuda}-plugin {plugin} is not of jax {jax}"
            problems.append(Problem(what=what, mend=f'{_PIP} "jax[{cuda}]=={jax}"', stops=True))
    return problems


def accelerators(nvidia: Path = Path("/proc/driver/nvidia/version")) -> dict[str, str]:
    """`gpu` and `tpu`, where this machine has them, with the jax for each (CUDA 13 needs driver 580)."""
    found = {}
    driver = driver_version(nvidia)
    if driver or shutil.which("nvidia-smi"):
        found["gpu"] = "jax[cuda12]" if driver and int(driver[:3]) < OLDEST_DRIVER["cuda13"] else "jax[cuda13]"
    if any(Path("/dev").glob("accel*")) or {"TPU_NAME", "TPU_ACCELERATOR_TYPE"} & os.environ.keys():
        found["tpu"] = "jax[tpu]"
    return found


def device_problems(devices: Devices, present: Mapping[str, str], environment: Mapping[str, str]) -> list[Problem]:
    """Accelerators that jax leaves unused, and what to know of the CPU."""
    if devices.platform != "cpu":
        return []
    found = []
    forced = environment.get("JAX_PLATFORMS")
    for name, package in present.items():
        line = "unset JAX_PLATFORMS" if forced else f'{_PIP} --upgrade "{package}"'
        why = f" because JAX_PLATFORMS={forced}" if forced else ""
        what = f"there is a {name.upper()} that jax does not use{why}"
        found.append(Problem(what=what, mend=line, stops=False))
    if not present and devices.bfloat16_speed:
        what = f"XLA multiplies bfloat16 matrices {devices.bfloat16_speed:.1f} times as fast as float32 on this CPU"
        mend = "compute in float32 here, as configs/quickstart.yaml does"
        if devices.bfloat16_speed > FASTER:
            mend = "precision=bfloat16 may be faster here than the float32 of the run files for CPUs"
        found.append(Problem(what=what, mend=mend, stops=False))
    return found


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))

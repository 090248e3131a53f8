"""What a compiled program communicates, read from its HLO text: which collective, over which mesh axes, of what."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


class Collective(NamedTuple):
    """One array that moves between devices; XLA may move several with one instruction."""

    kind: str
    """One of KINDS. XLA for CPUs writes a reduce-scatter as an all-reduce and a slice, and so it is read."""
    axes: tuple[str, ...]
    """The mesh axes along which the devices of a group differ, in mesh order."""
    dtype: str
    """As HLO writes it: f32, bf16, s32 ..."""
    shape: tuple[int, ...]
    """Of its result on a device; of its operand where it is asynchronous."""
    loops: int
    """How many loops it is inside of."""


def collectives(hlo: str, mesh: Mapping[str, int]) -> list[Collective]:
    """The collectives of a compiled program, those of a loop body once.

    Args:
        hlo: `jax.jit(f).lower(...).compile().as_text()`.
        mesh: axis -> size, in the order of the mesh (`mesh.shape`).
    Raises: ValueError if a group of devices is no product of mesh axes, or is written in a way not known here.
    """
    computations = dict(_computations(hlo))
    loops = _loops(computations)
    found = []
    for name, lines in computations.items():
        for line in lines:
            if match := _INSTRUCTION.search(line):
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else match["kind"]
                axes = _axes(_groups(line, math.prod(mesh.values())), mesh, whole=kind != "collective-permute")
                arrays = _ARRAY.findall(match["types"])[: match["operands"].count("%")]
                if not arrays:
                    raise ValueError(f"cannot read what this collective moves: {line.strip()[:300]}")
                found += [Collective(kind, axes, dtype, _shape(dims), loops[name]) for dtype, dims in arrays]
    return found


_INSTRUCTION = re.compile(rf" = (?P<types>.*?) (?P<kind>{'|'.join(KINDS)})(?:-start)?\((?P<operands>[^)]*)\)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def _shape(dims: str) -> tuple[int, ...]:
    return tuple(int(size) for size in dims.split(",") if size)


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    """Name -> the lines of its body; the entry is called ENTRY."""
    for match in re.finditer(r"^(ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", hlo, re.MULTILINE | re.DOTALL):
        yield "ENTRY" if match[1] else match[2], match[3].splitlines()


def _loops(computations: Mapping[str, list[str]]) -> dict[str, int]:
    """For each computation, how many loops surround it."""
    depth = {"ENTRY": 0}
    waiting = ["ENTRY"]
    while waiting:
        name = waiting.pop()
        for line in computations[name]:
            for role, names in re.findall(r"\b(\w+)=\{?(%[\w.-]+(?:, %[\w.-]+)*)", line):
                for called in re.findall(r"%([\w.-]+)", names):
                    inside = depth[name] + (role == "body")
                    if called in computations and depth.get(called, -1) < inside:
                        depth[called] = inside
                        waiting.append(called)
    return depth


def _groups(line: str, num_devices: int) -> np.ndarray:
    """[groups, members] of device numbers, from any of the ways HLO writes them."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", line):
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", listed[1])])
    if "replica_groups={}," in line:
        return np.arange(num_devices)[None]
    if iota := re.search(rf"replica_groups=\[([\d,]+)\]<={_ORDER}", line):
        return _ordered(num_devices, iota[2], iota[3]).reshape(_shape(iota[1]))
    if named := re.search(rf"replica_groups=mesh\[(.*?)\](?:, device_ids=\({_ORDER}\))? \{{(.*?)\}}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        moving = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", named[4])]
        devices = _ordered(num_devices, named[2], named[3]).reshape(tuple(sizes.values()))
        members = math.prod(devices.shape[dim] for dim in moving)
        return np.moveaxis(devices, moving, range(-len(moving), 0)).reshape(-1, members)
    raise ValueError(f"cannot read the devices of this collective: {line.strip()[:300]}")


_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _ordered(num_devices: int, dims: str | None, transposed: str | None) -> np.ndarray:
    """Device numbers counted over `dims`, those then taken in another order."""
    devices = np.arange(num_devices).reshape(_shape(dims or str(num_devices)))
    return (devices.transpose(_shape(transposed)) if transposed else devices).reshape(-1)


def _axes(groups: np.ndarray, mesh: Mapping[str, int], *, whole: bool) -> tuple[str, ...]:
    """Args: whole: whether a group has every device of its axes."""
    places = np.unravel_index(groups, tuple(mesh.values()))
    axes = tuple(axis for axis, place in zip(mesh, places, strict=True) if np.any(place != place[:, :1]))
    if whole and math.prod(mesh[axis] for axis in axes) != groups.shape[1]:
        raise ValueError(f"devices {groups[0].tolist()} are not all those of some axes of the mesh {dict(mesh)}")
    return axes

"""The same global batches for any number of hosts, on any mesh, and after going on with another number of them.

A host here is the devices it would have: each reads with a loader of its own. Real processes: `tests/commands`.
"""

import hashlib
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from numbered_documents import make_source

from llama3_jax.batches import loader
from llama3_jax.batches.loader import local_batches, rows_of
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline
from llama3_jax.sharding.axes import spec

HOSTS = (1, 2, 4, 8)
MESHES = ({"data": 8}, {"data": 4, "model": 2}, {"data": 2, "sequence": 2, "model": 2})
PAIRS = [
    (before, after, MESHES[number % 3], MESHES[(number + 1) % 3])
    for number, (before, after) in enumerate(itertools.product(HOSTS, HOSTS))
] + [
    (before, after, {"model": 8}, {"data": 8})
    for before, after in ((8, 1), (4, 2), (2, 4), (1, 8), (8, 2), (2, 8), (4, 8), (8, 4))
]
STOPS = (0, 3, 5, 9, 11, 14)
"""Steps at which a run is stopped, one of each stage and some at its end."""


def stage(name, tokens, length, rows, **more):
    return Stage(name=name, tokens=tokens, sequence_length=length, tokens_per_step=length * rows, **more)


@pytest.fixture(scope="module", params=Packing, ids=lambda packing: packing.value)
def spans(request):
    """A mix of three sources, a ramp of batch and length, a change of mix, two phases."""
    sizes = {"web": ([7, 30, 3, 12, 90] * 40, 0), "code": ([9, 50, 2] * 40, 10_000), "books": ([300, 20] * 6, 20_000)}
    sources = {
        name: make_source(lengths, packing=request.param, longest_row=64, first=first, seed=name)
        for name, (lengths, first) in sizes.items()
    }
    return timeline(
        [
            [
                stage("short", 8 * 16 * 4, 16, 8, mix={"web": 0.6, "code": 0.4}),
                stage("wide", 16 * 16 * 5, 16, 16, rows_per_group=1),
            ],
            [stage("long", 8 * 64 * 4, 64, 8, mix={"books": 0.5, "code": 0.2, "web": 0.3}), stage("last", 8 * 64 * 2, 64, 8)],
        ],
        sources,
    )


def row_hashes(spans, steps, hosts, axes, mesh):
    """(step, row) -> hash of the row, as `hosts` hosts read the steps between them."""
    placed = mesh(**axes)
    of_host = np.array_split(np.array(placed.devices).ravel(), hosts)
    sharding = NamedSharding(placed, spec(None, "batch", "position"))
    found = {}
    for span in spans:
        first, end = max(span.first_step, steps.start), min(span.end_step, steps.stop)
        if first >= end:
            continue
        pieces = span.stage.microbatches(axes.get("data", 1))
        shape = (pieces, span.stage.num_rows // pieces, span.stage.sequence_length)
        for devices in of_host:
            mine = rows_of(devices, sharding, shape)
            batches = local_batches(span, mine, microbatches=pieces, first_step=first)
            for step, batch in zip(range(first, end), batches, strict=False):
                for a, b in itertools.product(range(pieces), range(len(mine))):
                    digest = hashlib.sha256(b"".join(np.ascontiguousarray(leaf[a, b]).tobytes() for leaf in batch)).hexdigest()
                    place = (step, a * shape[1] + mine.start + b)
                    assert found.setdefault(place, digest) == digest, "two hosts that hold the same row read the same"
    return found


@pytest.fixture(scope="module")
def unbroken(spans, mesh):
    steps = range(0, spans[-1].end_step)
    found = row_hashes(spans, steps, 1, {}, mesh)
    assert sorted(found) == [
        (step, row) for span in spans for step in range(span.first_step, span.end_step) for row in range(span.stage.num_rows)
    ]
    return found


@pytest.mark.parametrize("number", range(24))
def test_any_hosts_go_on_where_others_stopped(spans, unbroken, mesh, monkeypatch, number):
    before, after, mesh_before, mesh_after = PAIRS[number]
    stop, last = STOPS[number % len(STOPS)], spans[-1].end_step
    monkeypatch.setattr(loader, "READ_THREADS", 1 + number % 5)
    found = row_hashes(spans, range(0, stop), before, mesh_before, mesh)
    monkeypatch.setattr(loader, "READ_THREADS", 5 - number % 5)
    found |= row_hashes(spans, range(stop, last), after, mesh_after, mesh)
    assert found == unbroken


def test_each_host_reads_only_its_own_rows(mesh):
    sharding = NamedSharding(mesh(data=8), spec(None, "batch", "position"))
    devices = jax.devices()[:8]
    assert [rows_of(devices[2 * host : 2 * host + 2], sharding, (1, 16, 8)) for host in range(4)] == [
        range(0, 4), range(4, 8), range(8, 12), range(12, 16)
    ]  # fmt: skip

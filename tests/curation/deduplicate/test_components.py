"""Components are exact, whatever the ids, the order of the edges and the length of a chain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.deduplicate.components import chained, components, spanning_forest

IDS = st.one_of(st.integers(0, 12), st.integers(2**64 - 3, 2**64 - 1))
EDGES = st.lists(st.tuples(IDS, IDS), max_size=30)


def ends(edges):
    return tuple(np.array(end, np.uint64) for end in (zip(*edges, strict=True) if edges else ((), ())))


def union_find(edges):
    """id -> smallest id of its component, one edge at a time."""
    root = {}

    def find(one):
        while root.setdefault(one, one) != one:
            one = root[one]
        return one

    for left, right in edges:
        low, high = sorted((find(left), find(right)))
        root[high] = low
    return {one: find(one) for one in root}


def found(left, right):
    ids, smallest = components(left, right)
    assert ids.dtype == smallest.dtype == np.uint64
    assert (ids[1:] > ids[:-1]).all()
    return dict(zip(ids.tolist(), smallest.tolist(), strict=True))


@given(EDGES)
def test_components_are_those_of_union_find(edges):
    assert found(*ends(edges)) == union_find(edges)


@given(st.permutations([(1, 2), (2, 3), (9, 8), (8, 7), (4, 4), (2**64 - 1, 7)]))
def test_the_order_of_edges_does_not_show(edges):
    assert found(*ends(edges)) == {1: 1, 2: 1, 3: 1, 4: 4, 7: 7, 8: 7, 9: 7, 2**64 - 1: 7}


def test_a_chain_of_ten_thousand():
    draw = np.random.default_rng(0)
    names = draw.permutation(np.unique(draw.integers(0, 2**64, 11_000, np.uint64))[:10_001])
    order = draw.permutation(10_000)
    whole = found(names[:-1][order], names[1:][order])
    assert len(whole) == 10_001
    assert set(whole.values()) == {int(names.min())}
    cut = np.setdiff1d(np.arange(10_000), [3_333])
    assert set(found(names[:-1][cut], names[1:][cut]).values()) == {int(names[:3_334].min()), int(names[3_334:].min())}


@given(EDGES, EDGES)
def test_forests_of_parts_have_the_components_of_the_whole(edges, others):
    forests = [spanning_forest(*ends(part)) for part in (edges, others)]
    left, right = (np.concatenate(side) for side in zip(*forests, strict=True))
    smallest = union_find(edges + others)
    assert found(left, right) == {one: low for one, low in smallest.items() if list(smallest.values()).count(low) > 1}
    assert all(len(forest[0]) <= max(0, len(union_find(part)) - 1) for forest, part in zip(forests, (edges, others), strict=True))


@given(st.lists(st.tuples(st.integers(0, 4), IDS), max_size=30))
def test_equal_keys_are_chained(rows):
    keys, ids = ends(rows)
    left, right = chained(keys, ids)
    edges = list(zip(left.tolist(), right.tolist(), strict=True))
    pairs = [(a, b) for i, (key, a) in enumerate(rows) for other, b in rows[i + 1 :] if key == other and a != b]
    assert union_find(edges) == union_find(pairs)
    assert len(edges) <= max(0, len(rows) - len(set(keys.tolist())))


def test_ends_that_do_not_pair_up():
    with pytest.raises(ValueError, match="2 left ends and 1 right ends"):
        components(np.zeros(2, np.uint64), np.zeros(1, np.uint64))


@pytest.mark.slow
def test_ten_million_random_edges():
    draw = np.random.default_rng(0)
    left, right = draw.integers(0, 20_000_000, (2, 10_000_000)).astype(np.uint64)
    ids, smallest = components(left, right)
    assert (smallest <= ids).all()
    at = np.searchsorted(ids, left), np.searchsorted(ids, right)
    assert (smallest[at[0]] == smallest[at[1]]).all()
    # a random graph of n nodes and n / 2 edges has no giant yet: about n exp(-1) nodes have no edge
    assert abs(len(ids) / 20e6 - (1 - np.exp(-1))) < 1e-3

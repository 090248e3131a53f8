"""Connected components of documents that share something."""

from __future__ import annotations

import numpy as np


def components(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact connected components of the graph with an edge between left[i] and right[i].

    Memory: about 100 bytes an edge at the peak; `spanning_forest` bounds what several pieces of edges come to.

    Args:
        left, right: uint64, any ids, repeated edges and edges from a document to itself included.
    Returns: the ids that have an edge, sorted, uint64; and of each the smallest id of its component, uint64. Neither
        depends on the order of the edges.
    Raises: ValueError for ends that do not pair up, or 2**31 ids and more, which SciPy does not number.
    """
    if len(left) != len(right):
        raise ValueError(f"{len(left)} left ends and {len(right)} right ends; give each edge both")
    ids, ends = _numbered(left, right)
    if not len(ids):
        return ids, ids.copy()
    return ids, ids[_smallest(len(ids), ends[: len(left)], ends[len(left) :])]


def spanning_forest(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges that connect the same ids as these do, and no more than are needed: one fewer than ids in each component.

    Forests of parts of the edges, joined, have the components of the whole.

    Returns: for each id that is not the smallest of its component, that smallest one and itself, sorted by the latter.
    """
    ids, smallest = components(left, right)
    others = ids != smallest
    return smallest[others], ids[others]


def chained(keys: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges between all ids that have an equal key: of n equal keys, n - 1 edges, from the smallest id to each other.

    Args:
        keys, ids: uint64, [rows].
    """
    order = np.lexsort((ids, keys))
    keys, ids = keys[order], ids[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    first = ids[np.flatnonzero(begins)[np.cumsum(begins) - 1]] if len(ids) else ids
    edge = first != ids
    return first[edge], ids[edge]


def _numbered(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids, sorted, and every end as a place among them."""
    ends = np.concatenate([left, right]).astype(np.uint64, copy=False)
    ids, places = np.unique(ends, return_inverse=True)
    if len(ids) >= 2**31:
        raise ValueError(f"{len(ids)} documents share something, 2**31 or more; find the components of each language apart")
    return ids, places.astype(np.int32)


def _smallest(num_nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each node the smallest one that it is connected with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(num_nodes, num_nodes))
    count, labels = connected_components(edges, directed=False)
    first = np.full(count, num_nodes, np.int64)
    np.minimum.at(first, labels, np.arange(num_nodes))
    return first[labels]

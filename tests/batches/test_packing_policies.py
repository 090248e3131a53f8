"""What each packing policy promises: which documents stay whole, what is padding, what is dropped, and that it is counted."""

import time
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_documents import all_rows, make_source

from llama3_jax.batches import planned
from llama3_jax.batches.best_fit import best_fit
from llama3_jax.batches.crop import crop
from llama3_jax.batches.loader import StageRows
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.stream import TokenStream
from llama3_jax.batches.timeline import timeline

PLANNED = [Packing.BEST_FIT, Packing.CROP]
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def read(lengths, length, steps, packing, **how):
    """(source, span, rows) of a stage of `steps` batches of two rows."""
    source = make_source(lengths, packing=packing, longest_row=length, **how)
    stage = Stage(name="s", tokens=2 * steps * length, sequence_length=length, tokens_per_step=2 * length)
    (span,) = timeline([[stage]], {"web": source})
    return source, span.stretches["web"], all_rows(StageRows(span))


def pieces(rows):
    """The token numbers of every piece of every row."""
    return [
        row.tokens[row.segment_ids == segment].tolist() for row in rows for segment in range(1, int(row.segment_ids.max()) + 1)
    ]


def documents_of(lengths):
    """First token number -> document length; tokens are numbered through all documents."""
    return dict(zip((np.cumsum(lengths) - lengths).tolist(), lengths, strict=True))


def brute_force(sizes, length):
    """Rooms left by best-fit decreasing, one piece at a time."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        enough = [room for room in rooms if room >= size]
        if enough:
            rooms.remove(min(enough))
        rooms.append((min(enough) if enough else length) - size)
    return sorted(rooms)


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), min_size=1, max_size=60))))
def test_best_fit_is_best_fit_decreasing(case):
    length, sizes = case
    rows = best_fit(np.array(sizes), length)
    filled = np.bincount(rows, weights=sizes).astype(int)
    assert filled.min() > 0, "rows are numbered without a gap"
    assert sorted((length - filled).tolist()) == brute_force(sizes, length)


@given(lengths, st.integers(1, 30))
def test_crop_fills_every_row_but_the_last_and_begins_each_with_a_document(sizes, length):
    rows = crop(np.array(sizes), length)
    assert rows[0] == 0 and set(np.diff(rows)) <= {0, 1}
    for row in range(rows[-1] + 1):
        mine = np.array(sizes)[rows == row]
        assert sum(mine[:-1]) < length and (sum(mine) >= length or row == rows[-1])


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(2, 24), st.integers(1, 40), st.integers(1, 6), st.integers(1, 3), st.integers(1, 9))
@pytest.mark.parametrize("packing", PLANNED)
def test_rows_keep_the_policy_and_the_tally_is_what_is_in_them(packing, sizes, length, steps, window, fewest, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned, "FEWEST_ROWS", fewest)
        patch.setattr(planned, "MOST_ROWS", fewest + most)
        source, stretch, rows = read(sizes, length, steps, packing, window=window)
    documents, found = documents_of(sizes), pieces(rows)
    in_stream = Counter(np.concatenate(source.stream.read(0, stretch.end)).tolist())
    in_rows = Counter(token for piece in found for token in piece)
    for piece in found:
        assert piece == list(range(piece[0], piece[-1] + 1)), "a piece is a stretch of one document"
    if packing is Packing.BEST_FIT:
        assert in_rows == in_stream, "nothing is dropped"
        for piece in found:
            start = max(first for first in documents if first <= piece[0])
            if documents[start] <= length:
                assert len(piece) == documents[start], "a document that fits a row is whole"
            else:
                assert (piece[0] - start) % length == 0 and (len(piece) == length or piece[-1] == start + documents[start] - 1)
    else:
        assert in_rows <= in_stream
        assert {piece[0] for piece in found} <= documents.keys(), "every piece begins with its document"
        for row in rows:
            for piece in pieces([row])[:-1]:
                assert len(piece) == documents[piece[0]], "only the last of a row is cut"
            last = pieces([row])[-1:]
            assert all(len(piece) == documents[piece[0]] or row.segment_ids[-1] for piece in last), "and only by its end"
    tokens = sum(len(piece) for piece in found)
    assert (stretch.tally.positions, stretch.tally.tokens) == (2 * steps * length, tokens)
    assert stretch.tally.dropped == stretch.end - tokens
    last_tokens = {first + size - 1 for first, size in documents.items()}
    assert stretch.tally.documents == sum(count for token, count in in_stream.items() if token in last_tokens)
    if packing is Packing.CROP:
        whole = sum(len(piece) == documents[piece[0]] for piece in found)
    else:
        whole = sum(len(piece) == documents.get(piece[0]) for piece in found)
    assert stretch.tally.cut == stretch.tally.documents - whole


@pytest.mark.parametrize("packing", PLANNED)
def test_targets_end_with_the_document_and_positions_restart(packing):
    sizes = [5, 9, 3, 16, 40, 2, 8]
    _, _, rows = read(sizes, 8, 4, packing)
    ends = {first + size - 1 for first, size in documents_of(sizes).items()}
    for row in rows:
        filled = row.segment_ids > 0
        scored = row.loss_weight > 0
        assert (row.targets[scored] == row.tokens[scored] + 1).all()
        assert not scored[~filled].any() and not np.isin(row.tokens[scored], list(ends)).any(), "EOS has no target"
        cut_inside = filled & ~scored & ~np.isin(row.tokens, list(ends))
        assert not cut_inside.any(), "every other token has one, the last of a full row too"
        for segment in range(1, row.segment_ids.max() + 1):
            mine = row.segment_ids == segment
            assert row.positions[mine].tolist() == list(range(mine.sum()))


def test_every_epoch_of_a_best_fit_source_holds_every_document_once():
    sizes = [5, 9, 3, 16, 40, 2, 8] * 30
    source, stretch, rows = read(sizes, 16, 200, Packing.BEST_FIT)
    epochs = stretch.end // source.num_tokens
    counts = Counter(np.concatenate([row.tokens[row.segment_ids > 0] for row in rows]).tolist())
    assert epochs >= 2 and set(counts.values()) <= {epochs, epochs + 1} and len(counts) == sum(sizes)


class Lengths:
    """A shard of a million documents of which only the lengths exist."""

    def __init__(self, number, size):
        random = np.random.default_rng(number)
        self.lengths = np.minimum(random.lognormal(6.3, 1.1, size).astype(np.int64) + 2, 200_000)
        self.header = SimpleNamespace(
            sha256=f"{number:064d}", num_documents=size, num_tokens=int(self.lengths.sum()), bytes=4 * int(self.lengths.sum())
        )

    def __len__(self):
        return self.lengths.size


@pytest.mark.parametrize("packing", PLANNED)
def test_a_million_documents_are_planned_in_seconds_and_bounded_memory(packing):
    stream = TokenStream([Lengths(number, 250_000) for number in range(4)], seed=0)
    source = packing.source(stream, seed="0", longest_row=8192)
    num_rows = int((0.98 if packing is Packing.BEST_FIT else 0.8) * stream.num_tokens / 8192)
    began = time.perf_counter()
    stretch = source.stretch(0, num_rows, 8192)
    assert time.perf_counter() - began < 10, "about two seconds on an idle core"
    assert stretch.tally.documents > 900_000
    tracemalloc.start()
    source.stretch(stretch.end, num_rows // 4, 8192)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6, "a few windows of 65,536 documents, not all"
    if packing is Packing.BEST_FIT:
        assert stretch.tally.tokens / stretch.tally.positions > 0.999 and not stretch.tally.dropped

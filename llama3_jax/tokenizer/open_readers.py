"""ArrayRecord files that are open at present: a run may have a hundred thousand, a process may open some hundreds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

LIMIT = 64


class OpenReaders:
    """The readers used last, by a key of the caller's; safe among threads.

    A reader that has to give way is closed by the last thread that still reads with it, so that file handles are
    bounded by the limit and the number of threads.
    """

    def __init__(self, limit: int = LIMIT):
        self._limit = limit
        self._readers: OrderedDict[str, ArrayRecordReader] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, locate: Callable[[], Path]) -> ArrayRecordReader:
        """The reader of `key`, opened at the path `locate` gives if need be."""
        with self._lock:
            reader = self._readers.get(key)
            if reader is not None:
                self._readers.move_to_end(key)
                return reader
        # outside the lock: others need not wait while a file is fetched or verified
        reader = ArrayRecordReader(str(locate()), "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32 * 1024)
        with self._lock:
            reader = self._readers.setdefault(key, reader)
            self._readers.move_to_end(key)
            dropped = [self._readers.popitem(last=False) for _ in range(len(self._readers) - self._limit)]
        del dropped  # closed outside the lock
        return reader

    def discard(self, key: str) -> None:
        """Forgets a reader, if it is there: one that failed stays failed, and the file of one may have gone."""
        with self._lock:
            self._readers.pop(key, None)

    def __len__(self) -> int:
        return len(self._readers)


OPEN_READERS = OpenReaders()
"""Of this process."""

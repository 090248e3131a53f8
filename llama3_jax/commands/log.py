"""What a run says: on the screen, and in its `log.txt`; the first process of a job speaks for all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from llama3_jax.sharding import processes


class Log:
    """`log(text)` shows a line and appends it, with the time, to `log.txt`; a context manager.

    Attributes:
        show: where lines go on the screen; replaced while a progress bar is there.
        stream: the screen, for who draws on it.
    """

    def __init__(self, directory: Path, show: Callable[[str], None] = print):
        self.show = show
        path = directory / "log.txt" if processes.is_first() else Path(os.devnull)
        self._file = path.open("a", encoding="utf-8")
        self.stream = sys.stdout if processes.is_first() else self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __call__(self, text: str) -> None:
        if processes.is_first():
            self.show(text)
        self.only_file(text)

    def only_file(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write("".join(f"{stamp}  {line}\n" for line in text.splitlines()))
        self._file.flush()

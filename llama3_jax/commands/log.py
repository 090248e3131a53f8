"""What a run says: on the screen, and in its `log.txt`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self


class Log:
    """`log(text)` shows a line and appends it, with the time, to `log.txt`; a context manager.

    Attributes: show: where lines go on the screen; replaced while a progress bar is there.
    """

    def __init__(self, directory: Path, show: Callable[[str], None] = print):
        self.show = show
        self._file = (directory / "log.txt").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __call__(self, text: str) -> None:
        self.show(text)
        self.only_file(text)

    def only_file(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write("".join(f"{stamp}  {line}\n" for line in text.splitlines()))
        self._file.flush()

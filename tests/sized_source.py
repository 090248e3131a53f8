"""Sources of which only the size is known: enough to place the stages of a run."""

from types import SimpleNamespace


class SizedSource:
    def __init__(self, num_tokens):
        self.num_tokens = num_tokens

    def stretch(self, start, num_rows, length):
        return SimpleNamespace(start=start, end=start + num_rows * length, order="")


def sized(**sizes):
    """Source name -> a source of that many tokens."""
    return {name: SizedSource(size) for name, size in sizes.items()}

"""What is wrong with a run file: all of it at once, each with its place."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    origin: str
    """Where the offending text is, such as `configs/quickstart.yaml:12` or `command line`."""
    key: str
    """Dotted key, such as `phases.0.stages.1.tokens`; empty for the run file as a whole."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin, self.key, self.message) if part)


class ConfigError(ValueError):
    """A run file, an override or a mapping that cannot become the asked configuration.

    Attributes: problems, every `Problem` found.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        lines = [str(problem) for problem in problems]
        super().__init__(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))


def nearest(given: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice most like `given`, or nothing."""
    found = difflib.get_close_matches(given, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""

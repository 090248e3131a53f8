"""Text that says its language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import fsspec

from llama3_jax.curation.read.read import find_inputs
from llama3_jax.curation.read.records import inflated

_FIELDS = ("lang", "language", "code")
_GROUPS = ("sent_id", "group", "id")


def labelled_texts(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(group, language, text) of every line of .jsonl(.gz/.zst) files; a group is held out together.

    Raises: ValueError for a line without text or language.
    """
    for file in find_inputs(paths):
        with fsspec.open(file.path, "rb") as opened:
            for number, line in enumerate(b"".join(inflated(opened, file.name)).split(b"\n"), start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                language = next((record[name] for name in _FIELDS if record.get(name)), None)
                if language is None or not isinstance(record.get("text"), str):
                    raise ValueError(
                        f"{file.path}:{number} has the fields {', '.join(record)}; give `text` and `lang` to each line"
                    )
                group = next((str(record[name]) for name in _GROUPS if record.get(name) is not None), record["text"])
                yield group, language, record["text"]

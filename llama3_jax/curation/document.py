"""The unit of a corpus."""

from typing import NamedTuple


class Document(NamedTuple):
    """One text and the name it is known by; the split into training and held out goes by the id."""

    id: str
    text: str
    language: str = ""
    """As its record says; empty where it says nothing."""

"""HTML to text, by the extractor that the settings name."""

from __future__ import annotations

from llama3_jax.curation.extract.main_text import main_text
from llama3_jax.curation.extract.settings import Extraction


def extract(page: bytes, encoding: str, settings: Extraction) -> str:
    """The main text of a page; empty where it shows none.

    Raises: ValueError if trafilatura is asked for and not installed.
    """
    if settings.extractor == "own":
        return main_text(page, encoding)
    try:
        import trafilatura
    except ModuleNotFoundError as error:
        raise ValueError("extractor: trafilatura is not installed; pip install trafilatura, or use extractor: own") from error
    return trafilatura.extract(page.decode(encoding, "replace"), include_comments=False) or ""

"""The corpus of the running Python: readable prose, real code, one name for both."""

import ast
import itertools
import json.decoder
import sysconfig

import pytest

from llama3_jax.curation.python_corpus import python_code, python_docs


@pytest.fixture(scope="module")
def docs():
    return list(python_docs())


@pytest.fixture(scope="module")
def code():
    return list(python_code())


def test_prose_has_the_reference_and_the_docstrings(docs):
    text = {document.id: document.text for document in docs}
    assert "lambda" in text["topic:lambda"]
    assert text["json.decoder"].startswith("json.decoder\n")
    assert "json.decoder.JSONDecoder.raw_decode" in text["json.decoder"]
    assert json.decoder.JSONDecoder.raw_decode.__doc__.split()[0] in text["json.decoder"]
    assert "def raw_decode(" not in text["json.decoder"]


def test_code_is_the_source(code):
    text = {document.id: document.text for document in code}
    assert "def raw_decode(" in text["json.decoder"]
    ast.parse(text["json"])


def test_ids_are_unique_sorted_and_shared(docs, code):
    code_ids = [document.id for document in code]
    assert code_ids == sorted(set(code_ids))
    module_ids = [document.id for document in docs if not document.id.startswith("topic:")]
    assert module_ids == sorted(set(module_ids)) and len(module_ids) > 100
    assert set(module_ids) <= set(code_ids)


def test_no_tests_packages_or_applications(code):
    parts = set(itertools.chain.from_iterable(document.id.split(".") for document in code))
    assert parts.isdisjoint({"site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip"})


def test_every_document_says_something(docs, code):
    assert all(document.text.strip() for document in docs + code)


def test_a_python_without_sources_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        list(python_code())

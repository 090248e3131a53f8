"""Hugging Face's tokenizer files: read into our ranks, and written so that their library gives our ids and dialogs."""

import json
from pathlib import Path

import pytest

from llama3_jax.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
from llama3_jax.tokenizer.dialog import Call, HuggingFaceLayout, Message, Role, encode_dialog
from llama3_jax.tokenizer.hugging_face import tokenizer_files
from llama3_jax.tokenizer.train_bpe import train_bpe

TEXTS = ["the theme of the other weather, there and then", "cinq cents chevaux, c'est \u00e9trange \u2014 \U0001f600\n\n  12345"]


@pytest.fixture(scope="module")
def ours():
    return Tokenizer(train_bpe(TEXTS * 20, vocab_size=256 + 256 + 50))


@pytest.fixture(scope="module")
def directory(ours, tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    for name, text in tokenizer_files(ours.tokens, SPLIT_PATTERN, 131_072).items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def test_what_we_write_is_read_as_the_same_vocabulary(ours, directory):
    assert Tokenizer.load(directory / "tokenizer.json").fingerprint == ours.fingerprint
    assert json.loads((directory / "tokenizer.json").read_text())["model"]["ignore_merges"] is True


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda f: f["model"]["vocab"].popitem(), "or not one of 0|not 256 special ones"),
        (lambda f: f["model"]["vocab"].update({"\u20ac\u20ac": 0}), "which is taken"),
        (lambda f: f["added_tokens"].pop(), "255 added tokens are not 256 special ones"),
        (lambda f: f["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=" "), "text is split by"),
        (lambda f: f.update(model={"type": "Unigram", "vocab": [["a", 0.0]]}), "no byte-pair vocabulary"),
        (lambda f: f.update(pre_tokenizer=None), "text is split by"),
    ],
)
def test_what_is_no_tokenizer_of_a_llama_3_is_refused(spoil, words, directory, tmp_path):
    fields = json.loads((directory / "tokenizer.json").read_text())
    spoil(fields)
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=words):
        Tokenizer.load(tmp_path / "tokenizer.json")


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
SYSTEM = Message(role=Role.SYSTEM, content=" Be brief. ")
QUESTION = Message(role=Role.USER, content=" Rain? ")
ANSWER = Message(role=Role.ASSISTANT, content="No.\n")
CALL = Message(role=Role.ASSISTANT, calls=(Call(name="weather", arguments={"city": "Z\u00fcrich", "days": 2}),))
SEARCH = Message(role=Role.ASSISTANT, calls=(Call(name="brave_search", arguments={"query": "rain"}),))
RESULT = Message(role=Role.IPYTHON, content='{"mm": 3}')
DIALOGS = {
    "a question": ([QUESTION], {}),
    "with a system message": ([SYSTEM, QUESTION], {}),
    "an answer": ([QUESTION, ANSWER, QUESTION], {}),
    "another date": ([QUESTION], {"date": "01 Jan 2026"}),
    "tools": ([QUESTION, CALL, RESULT], {"tools": (WEATHER,)}),
    "tools for the system": ([SYSTEM, QUESTION], {"tools": (WEATHER,), "tools_in_user_message": False}),
    "built-in tools": ([QUESTION, SEARCH, RESULT], {"builtin_tools": ("brave_search", "code_interpreter")}),
    "both": ([SYSTEM, QUESTION, CALL, RESULT, ANSWER], {"tools": (WEATHER, WEATHER), "builtin_tools": ("wolfram_alpha",)}),
}


def as_they_take_it(dialog):
    def each(message):
        fields = {"role": message.role.value, "content": message.content}
        if message.calls:
            (call,) = message.calls
            fields["tool_calls"] = [{"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}]
        return fields

    return [each(message) for message in dialog]


@pytest.mark.oracle
@pytest.mark.parametrize("name", DIALOGS)
def test_the_template_writes_what_our_layout_does(name, ours, directory):
    transformers = pytest.importorskip("transformers", reason="the template is run by transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    dialog, settings = DIALOGS[name]
    options = {key: value for key, value in settings.items() if key not in ("date", "tools")}
    if "date" in settings:
        options["date_string"] = settings["date"]
    for prompt in (False, True):
        ids = tokenizer.apply_chat_template(
            as_they_take_it(dialog), tools=list(settings["tools"]) if "tools" in settings else None,
            add_generation_prompt=prompt, return_dict=False, **options,
        )  # fmt: skip
        assert ours.decode(ids) == ours.decode(encode_dialog(ours, dialog, HuggingFaceLayout(**settings), prompt=prompt).ids)
        assert ids == encode_dialog(ours, dialog, HuggingFaceLayout(**settings), prompt=prompt).ids


@pytest.mark.oracle
def test_their_library_gives_our_ids(ours, directory):
    transformers = pytest.importorskip("transformers", reason="the files are read by transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for text in [*TEXTS, "", " ", "theth thethe aaaa", "\u65e5\u672c\r\n\r\n x", "'Ll 1234567890"]:
        assert tokenizer(text)["input_ids"] == ours.encode(text, bos=True)
        assert tokenizer.decode(ours.encode(text)) == text
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") == ours.special_id("<|eot_id|>")
    assert tokenizer("<|eot_id|>")["input_ids"][1:] == [ours.special_id("<|eot_id|>")], "in their files text can be one"
    assert tokenizer("<|eot_id|>", split_special_tokens=True)["input_ids"] == ours.encode("<|eot_id|>", bos=True)


@pytest.mark.oracle
def test_metas_vocabulary_through_their_files(tmp_path):
    llama3 = pytest.importorskip("llama_models.llama3.tokenizer", reason="Meta's ranks come with llama_models")
    transformers = pytest.importorskip("transformers", reason="the files are read by transformers")
    metas = Tokenizer.load(Path(llama3.__file__).with_name("tokenizer.model"))
    for name, text in tokenizer_files(metas.tokens, SPLIT_PATTERN, 131_072).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == metas.fingerprint
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "Gr\u00fc\u00dfe", "x" * 1000, " \u0915\u094d\u0937\u0947\u0924\u094d\u0930 \u10e1\u10d0\u10e5"]:
        assert tokenizer(text)["input_ids"] == metas.encode(text, bos=True)

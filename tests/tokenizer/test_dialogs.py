"""Dialogs become ids as Meta's code and Hugging Face's template for Llama 3.1 write them; text never becomes a control token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.dialog import Call, CallFormat, HuggingFaceLayout, Message, MetaLayout, Role, encode_dialog
from llama3_jax.tokenizer.special_tokens import SPECIAL_TOKENS

TOKENIZER = Tokenizer([bytes([byte]) for byte in range(256)])
SYSTEM, USER, ASSISTANT, IPYTHON = Role
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}


def written(dialog, layout, **how):
    return TOKENIZER.decode(encode_dialog(TOKENIZER, dialog, layout, **how).ids)


def said(dialog, layout):
    """The stretches that carry loss, as text."""
    ids, loss = encode_dialog(TOKENIZER, dialog, layout)
    assert len(ids) == len(loss)
    text, stretches, open_stretch = [], [], False
    for token_id, counts in zip(ids, loss, strict=True):
        if counts:
            text = [*text, token_id] if open_stretch else [token_id]
        if open_stretch and not counts:
            stretches.append(TOKENIZER.decode(text))
        open_stretch = counts
    return stretches + ([TOKENIZER.decode(text)] if open_stretch else [])


DIALOG = [
    Message(role=SYSTEM, content="Be kind."),
    Message(role=USER, content=" Hello\n"),
    Message(role=ASSISTANT, content="Hi!  "),
    Message(role=USER, content="Bye"),
]


def test_metas_layout_adds_and_strips_nothing():
    assert written(DIALOG, MetaLayout(), prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n Hello\n<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!  <|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert said(DIALOG, MetaLayout()) == ["Hi!  <|eot_id|>"]


def test_hugging_faces_layout_has_its_dates_and_strips():
    assert written(DIALOG, HuggingFaceLayout(), prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    no_system = written(DIALOG[1:2], HuggingFaceLayout(date="01 Jan 2025"))
    assert "system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 01 Jan 2025\n\n<|eot_id|>" in no_system
    assert said(DIALOG, HuggingFaceLayout()) == ["Hi!<|eot_id|>"]


def search(query):
    return Call(name="brave_search", arguments={"query": query})


TOOLS = [
    Message(role=USER, content="Who won?"),
    Message(role=ASSISTANT, calls=(search("who won"),), goes_on=True),
    Message(role=IPYTHON, content="The llamas"),
    Message(role=ASSISTANT, content="The llamas did."),
]


def test_a_tool_is_called_and_the_turn_goes_on():
    assert said(TOOLS, MetaLayout()) == ['brave_search.call(query="who won")<|eom_id|>', "The llamas did.<|eot_id|>"]
    text = written(TOOLS, HuggingFaceLayout(builtin_tools=("brave_search", "code_interpreter")))
    assert "Environment: ipython\nTools: brave_search\n\nCutting Knowledge" in text
    assert 'assistant<|end_header_id|>\n\n<|python_tag|>brave_search.call(query="who won")<|eom_id|>' in text
    assert 'ipython<|end_header_id|>\n\n"The llamas"<|eot_id|>' in text, "as its template has it: as JSON"


def test_code_begins_with_the_python_tag():
    code = Call(name="code_interpreter", arguments={"code": "print(1)"})
    dialog = [Message(role=ASSISTANT, content="Let me see. ", calls=(code,), goes_on=True)]
    assert said(dialog, MetaLayout()) == ["<|python_tag|>Let me see. print(1)<|eom_id|>"]


@pytest.mark.parametrize(
    "calls, text",
    [
        (CallFormat.JSON, '{"type": "function", "name": "weather", "parameters": {"city": "Cuzco", "days": [1, null]}}'),
        (CallFormat.FUNCTION_TAG, '<function=weather>{"city": "Cuzco", "days": [1, null]}</function>'),
        (CallFormat.PYTHON_LIST, '[weather(city="Cuzco", days=[1, None])]'),
    ],
)
def test_functions_are_called_as_asked(calls, text):
    call = Call(name="weather", arguments={"city": "Cuzco", "days": [1, None]})
    assert said([Message(role=ASSISTANT, calls=(call,))], MetaLayout(calls)) == [f"{text}<|eot_id|>"]


def test_functions_are_described_to_the_model():
    schema = """{
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "properties": {
                "city": {
                    "type": "string"
                }
            }
        }
    }
}"""
    call = Message(role=ASSISTANT, calls=(Call(name="weather", arguments={"city": "Köln"}),))
    text = written([Message(role=USER, content=" Rain?"), call], HuggingFaceLayout(tools=(WEATHER,)))
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting")
    assert (
        "user<|end_header_id|>\n\nGiven the following functions, please respond with a JSON for a function call with its proper "
        'arguments that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary '
        f"of argument name and its value}}.Do not use variables.\n\n{schema}\n\nRain?<|eot_id|>"
    ) in text
    assert text.endswith('{"name": "weather", "parameters": {"city": "Köln"}}<|eot_id|>')
    text = written([Message(role=USER, content="Rain?")], HuggingFaceLayout(tools=(WEATHER,), tools_in_user_message=False))
    assert f"its value}}.Do not use variables.\n\n{schema}\n\n<|eot_id|>" in text and "user<|end_header_id|>\n\nRain?" in text


hostile = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=6), st.just("\n\n")), max_size=8).map("".join)
LAYOUTS = (MetaLayout(), HuggingFaceLayout(), HuggingFaceLayout(tools=(WEATHER,), builtin_tools=("brave_search",)))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(hostile, min_size=3, max_size=3), layout=st.sampled_from(LAYOUTS))
def test_text_never_becomes_a_control_token(texts, layout):
    """Whatever is written, the control tokens are those of the roles and ends."""
    dialog = [Message(role=role, content=text) for role, text in zip((SYSTEM, USER, ASSISTANT), texts, strict=True)]
    controls = [each for each in encode_dialog(TOKENIZER, dialog, layout).ids if each >= len(TOKENIZER.tokens)]
    message = [TOKENIZER.special_id(name) for name in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")]
    assert controls == [TOKENIZER.bos_id, *3 * message]


WRONG = Call(name="brave_search", arguments={"q": 1})


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: Message(role=USER, calls=(search("x"),)), "of role user calls a tool"),
        (lambda: Message(role=SYSTEM, goes_on=True), "only the assistant does"),
        (lambda: written([Message(role=SYSTEM, content="x")], HuggingFaceLayout(tools=(WEATHER,))), "has none; add it"),
        (lambda: written([Message(role=ASSISTANT, calls=(search("x"),) * 2)], HuggingFaceLayout()), "calls 2 tools"),
        (lambda: written([Message(role=ASSISTANT, calls=(WRONG,))], MetaLayout()), "takes 'query', and has 'q'"),
    ],
)
def test_what_no_layout_writes_is_refused(make, why):
    with pytest.raises(ValueError, match=why):
        make()

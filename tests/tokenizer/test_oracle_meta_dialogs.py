"""Dialogs as Meta's own `ChatFormat` encodes them, with Meta's own ranks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.dialog import Call, CallFormat, Message, MetaLayout, Role, encode_dialog

pytestmark = [pytest.mark.oracle]
chat_format = pytest.importorskip("llama_models.llama3.chat_format", reason="Meta's code is not installed")


@pytest.fixture(scope="module")
def both():
    from llama_models.llama3.tokenizer import Tokenizer as Theirs

    path = Path(chat_format.__file__).with_name("tokenizer.model")
    return Tokenizer.load(path), chat_format.ChatFormat(Theirs(path))


def theirs_of(message):
    from llama_models.datatypes import BuiltinTool, RawMessage, StopReason, ToolCall

    calls = [
        ToolCall(
            call_id="c", tool_name=BuiltinTool(call.name) if call.name in set(BuiltinTool) else call.name,
            arguments=dict(call.arguments),
        )
        for call in message.calls
    ]  # fmt: skip
    role = "tool" if message.role is Role.IPYTHON else message.role.value
    stop = StopReason.end_of_message if message.goes_on else StopReason.end_of_turn
    return RawMessage(role=role, content=message.content, tool_calls=calls, stop_reason=stop)


texts = st.text(alphabet=st.sampled_from("ab \n\t<|>_ihdeot漢é🦙12'"), max_size=20)
arguments = st.dictionaries(st.sampled_from(["city", "days"]), st.one_of(st.integers(), texts, st.lists(texts, max_size=2)))
searches = st.sampled_from(["brave_search", "wolfram_alpha", "photogen"])
calls = st.one_of(
    st.builds(lambda name, query: Call(name=name, arguments={"query": query}), searches, texts),
    st.builds(lambda code: Call(name="code_interpreter", arguments={"code": code}), texts),
    st.builds(lambda given: Call(name="weather", arguments=given), arguments),
)
messages = st.one_of(
    st.builds(lambda role, text: Message(role=role, content=text), st.sampled_from(Role), texts),
    st.builds(
        lambda text, called, more: Message(role=Role.ASSISTANT, content=text, calls=tuple(called), goes_on=more), texts,
        st.lists(calls, max_size=2), st.booleans(),
    ),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(dialog=st.lists(messages, max_size=5), calls=st.sampled_from(CallFormat))
def test_the_same_ids(both, dialog, calls):
    from llama_models.datatypes import ToolPromptFormat

    tokenizer, theirs = both
    expected = theirs.encode_dialog_prompt([theirs_of(message) for message in dialog], ToolPromptFormat(calls.value)).tokens
    assert encode_dialog(tokenizer, dialog, MetaLayout(calls), prompt=True).ids == expected

"""Dialogs as token ids (section 4.1.1): messages between headers, each ended by who goes on, and which tokens carry loss.

A message is encoded by itself, its text as ordinary text: nothing that is written in one can open, close or give itself another
role. Control tokens are put in by id.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llama3_jax.tokenizer.bpe import Tokenizer
from llama3_jax.tokenizer.special_tokens import END_HEADER, END_OF_MESSAGE, END_OF_TURN, PYTHON_TAG, START_HEADER

CODE_INTERPRETER = "code_interpreter"
SEARCHES = ("brave_search", "wolfram_alpha", "photogen")
"""Built-in tools that take one query."""


class Role(enum.Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    IPYTHON = "ipython"
    """What a tool gave back."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """Of a tool, by the assistant."""

    name: str
    """`code_interpreter`, one of the built-in searches, or a function's own."""
    arguments: Mapping[str, Any]
    """Of a search `query`, of the interpreter `code`."""


@dataclass(frozen=True, kw_only=True)
class Message:
    role: Role
    content: str = ""
    calls: tuple[Call, ...] = ()
    goes_on: bool = False
    """The assistant waits for a tool and then says more (`<|eom_id|>`), instead of handing the turn over (`<|eot_id|>`)."""

    def __post_init__(self) -> None:
        if self.role is not Role.ASSISTANT and (self.calls or self.goes_on):
            raise ValueError(f"a message of role {self.role.value} calls a tool or goes on; only the assistant does")


class Turn(NamedTuple):
    """A message in a layout."""

    role: Role
    texts: tuple[str, ...]
    """Encoded one by one, one after the other."""
    end: str
    python_tag: bool = False
    """Whether `<|python_tag|>` comes first."""


class Encoded(NamedTuple):
    ids: list[int]
    loss: list[bool]
    """Whether a model is trained to say it: what the assistant says, and the token that ends it."""


class CallFormat(enum.Enum):
    """How Meta's layout writes the call of a function that is not built in."""

    JSON = "json"
    FUNCTION_TAG = "function_tag"
    PYTHON_LIST = "python_list"


@dataclass(frozen=True)
class MetaLayout:
    """That of Meta's released code: messages as they are, nothing added."""

    calls: CallFormat = CallFormat.JSON

    def turns(self, dialog: Sequence[Message]) -> Iterator[Turn]:
        for message in dialog:
            texts = (message.content, *(self._call(call) for call in message.calls))
            code = bool(message.calls) and message.calls[0].name == CODE_INTERPRETER
            yield Turn(message.role, texts, END_OF_MESSAGE if message.goes_on else END_OF_TURN, python_tag=code)

    def _call(self, call: Call) -> str:
        if call.name in SEARCHES:
            return f'{call.name}.call(query="{_argument(call, "query")}")'
        if call.name == CODE_INTERPRETER:
            return _argument(call, "code")
        arguments = dict(call.arguments)
        match self.calls:
            case CallFormat.JSON:
                return json.dumps({"type": "function", "name": call.name, "parameters": arguments})
            case CallFormat.FUNCTION_TAG:
                return f"<function={call.name}>{json.dumps(arguments)}</function>"
            case CallFormat.PYTHON_LIST:
                return f"[{call.name}({', '.join(f'{name}={_python(value)}' for name, value in arguments.items())})]"


@dataclass(frozen=True, kw_only=True)
class HuggingFaceLayout:
    """That of the template that comes with Llama 3.1 at Hugging Face, and its defaults.

    A system message with two dates always comes first, contents are stripped, tools are described to the model, in the first
    user message unless `tools_in_user_message` is false. What a message says beside its call is left out, as there.
    """

    date: str = "26 Jul 2024"
    tools: tuple[Mapping[str, Any], ...] | None = None
    """Functions, as JSON schemas."""
    builtin_tools: tuple[str, ...] | None = None
    tools_in_user_message: bool = True

    def turns(self, dialog: Sequence[Message]) -> Iterator[Turn]:
        """Raises: ValueError for what the template refuses: two calls in a message, tools without a first user message."""
        system, rest = "", list(dialog)
        if rest and rest[0].role is Role.SYSTEM:
            system = rest.pop(0).content.strip()
        yield Turn(Role.SYSTEM, (self._system(system),), END_OF_TURN)
        if self.tools is not None and self.tools_in_user_message:
            if not rest:
                raise ValueError("tools are described in the first user message, and the dialog has none; add it, or set "
                                 "tools_in_user_message=False")  # fmt: skip
            first = rest.pop(0).content.strip()
            yield Turn(Role.USER, (f"{_GIVEN}{_RESPOND}{self._schemas()}{first}",), END_OF_TURN)
        for message in rest:
            yield self._turn(message)

    def _system(self, system: str) -> str:
        lines = "Environment: ipython\n" if self.builtin_tools is not None or self.tools is not None else ""
        if self.builtin_tools is not None:
            lines += f"Tools: {', '.join(tool for tool in self.builtin_tools if tool != CODE_INTERPRETER)}\n\n"
        lines += f"Cutting Knowledge Date: December 2023\nToday Date: {self.date}\n\n"
        if self.tools is not None and not self.tools_in_user_message:
            lines += f"{_ACCESS}{_RESPOND}{self._schemas()}"
        return lines + system

    def _schemas(self) -> str:
        return "".join(json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in self.tools or ())

    def _turn(self, message: Message) -> Turn:
        if message.role is Role.IPYTHON:
            return Turn(message.role, (json.dumps(message.content, ensure_ascii=False),), END_OF_TURN)
        if not message.calls:
            return Turn(message.role, (message.content.strip(),), END_OF_TURN)
        if len(message.calls) > 1:
            raise ValueError(f"a message calls {len(message.calls)} tools; Llama 3.1 has one in each message")
        (call,) = message.calls
        end = END_OF_TURN if self.builtin_tools is None else END_OF_MESSAGE
        if call.name in (self.builtin_tools or ()):
            written = ", ".join(f'{name}="{value}"' for name, value in call.arguments.items())
            return Turn(message.role, (f"{call.name}.call({written})",), end, python_tag=True)
        parameters = json.dumps(dict(call.arguments), ensure_ascii=False)
        return Turn(message.role, (f'{{"name": "{call.name}", "parameters": {parameters}}}',), end)


_GIVEN = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best answers "
    "the given prompt.\n\n"
)
_ACCESS = "You have access to the following functions. To call a function, please respond with JSON for a function call."
_RESPOND = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)
"""The wordings that Llama 3.1 was trained with, as its template has them, missing space included."""


def encode_dialog(
    tokenizer: Tokenizer, dialog: Sequence[Message], layout: MetaLayout | HuggingFaceLayout, *, prompt: bool = False
) -> Encoded:
    """Ids of a dialog, begin of text first, and which of them carry loss.

    Args: prompt: whether the header of an answer comes last, for the model to go on from.
    """
    ids, loss = [tokenizer.bos_id], [False]

    def add(some: Sequence[int], said: bool) -> None:
        ids.extend(some)
        loss.extend([said] * len(some))

    for turn in layout.turns(dialog):
        said = turn.role is Role.ASSISTANT
        add(_header(tokenizer, turn.role), False)
        if turn.python_tag:
            add([tokenizer.special_id(PYTHON_TAG)], said)
        for text in turn.texts:
            add(tokenizer.encode(text), said)
        add([tokenizer.special_id(turn.end)], said)
    if prompt:
        add(_header(tokenizer, Role.ASSISTANT), False)
    return Encoded(ids, loss)


def _header(tokenizer: Tokenizer, role: Role) -> list[int]:
    opened, closed = tokenizer.special_id(START_HEADER), tokenizer.special_id(END_HEADER)
    return [opened, *tokenizer.encode(role.value), closed, *tokenizer.encode("\n\n")]


def _argument(call: Call, name: str) -> str:
    if set(call.arguments) != {name}:
        raise ValueError(f"a call of {call.name} takes {name!r}, and has {', '.join(map(repr, call.arguments)) or 'nothing'}")
    return str(call.arguments[name])


def _python(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}={_python(item)}' for name, item in value.items())}}}"
    return str(value)

"""The pickle inside a `.pth` file, read as data: a table of tensors is all it can become.

Opcodes are followed one by one, without Python's own unpickler: no name is imported, nothing is called or built, and the memo
cannot be made to take memory. Whatever else a pickle asks for is an error.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Storage:
    """Numbers in a file of their own inside the archive."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class View:
    """A tensor as a part of a storage, counted in its elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where the items of a tuple, dict or list begin on the stack."""


_MARK = _Mark()
_ORDERED_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
)  # fmt: skip
_STORAGES = {"torch BFloat16Storage": "bfloat16", "torch HalfStorage": "float16", "torch FloatStorage": "float32"}
_SCALARS = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


@dataclass(frozen=True)
class _Name:
    """What a pickle would import."""

    name: str


def read_tensors(pickled: bytes, where: str) -> dict[str, View]:
    """Tensors by name. Raises: ValueError naming `where`: not a pickle, or one that asks for more than tensors."""
    try:
        value = _follow(pickled)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{where} is not read: it is damaged, or holds more than tensors ({str(error)[:200] or type(error).__name__}); use "
            "a file of weights alone, and fetch it again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__} and no tensors by name; use a file of weights alone")
    for name, view in value.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise ValueError(f"{where} holds {str(name)[:100] if isinstance(name, str) else 'things'} that are no tensors")
    return value


def _follow(pickled: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
        name = opcode.name
        if name in _SCALARS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(_marked(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(_popped(stack, int(name[-1]))))
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            stack.append(_named(" ".join(_popped(stack, 2))))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = _popped(stack, 2)
            stack.append(_result(function, arguments))
        elif name == "BUILD":  # of a dict, what PyTorch notes of the module it came from
            stack.pop()
            _require(isinstance(stack[-1], dict), "it sets attributes")
        elif name in ("SETITEM", "SETITEMS"):
            items = _popped(stack, 2) if name == "SETITEM" else _marked(stack)
            _require(isinstance(stack[-1], dict) and len(items) % 2 == 0, "it sets items of what is no dict")
            for key, value in zip(items[::2], items[1::2], strict=True):
                _require(isinstance(key, str), "a key is not a string")
                stack[-1][key] = value
        elif name in ("APPEND", "APPENDS"):
            items = _popped(stack, 1) if name == "APPEND" else _marked(stack)
            _require(isinstance(stack[-1], list), "it appends to what is no list")
            stack[-1].extend(items)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it uses {name}")
    (value,) = stack
    return value


def _popped(stack: list[Any], number: int) -> list[Any]:
    items = stack[-number:]
    _require(len(items) == number and _MARK not in items, "it is cut off")
    del stack[-number:]
    return items


def _marked(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        _require(place >= 0, "it is cut off")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _named(name: str) -> _Name:
    _require(name in (_ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES), f"it asks for {name[:100]}, which is not run")
    return _Name(name)


def _storage(described: Any) -> Storage:
    kind, storage, key, _, numel = described
    _require(kind == "storage" and isinstance(key, str), "a storage is not described as PyTorch does")
    return Storage(_STORAGES[storage.name], key, _count(numel))


def _result(function: Any, arguments: Any) -> Any:
    """What a call of one of the known names would give."""
    match function:
        case _Name(name=name) if name == _ORDERED_DICT and arguments == ():
            return {}
        case _Name(name=name) if name == _TENSOR:
            storage, offset, shape, strides, *_ = arguments
            right = isinstance(storage, Storage) and len(shape) == len(strides) <= 8
            _require(right, "a tensor is not described as PyTorch does")
            return View(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, strides)))
        case _Name(name=name) if name == _PARAMETER and isinstance(arguments[0], View):
            return arguments[0]
    raise ValueError("it calls what is not run")


def _count(value: Any) -> int:
    _require(type(value) is int and 0 <= value < 2**62, "a size is not one")
    return value


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)

"""The 256 special tokens that follow the byte-pair ranks: by position, and by the names that each release gives them.

The same reserved *name* stands at other positions in other releases, so what a file says by name is looked up in its own naming,
and everything is compared by position.
"""

from __future__ import annotations

import enum

NUM_SPECIAL_TOKENS = 256

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
FINETUNE_RIGHT_PAD = "<|finetune_right_pad_id|>"
STEP = "<|step_id|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_MESSAGE = "<|eom_id|>"
END_OF_TURN = "<|eot_id|>"
PYTHON_TAG = "<|python_tag|>"
IMAGE = "<|image|>"

_MEANING = {
    0: BEGIN_OF_TEXT, 1: END_OF_TEXT, 4: FINETUNE_RIGHT_PAD, 5: STEP, 6: START_HEADER, 7: END_HEADER, 8: END_OF_MESSAGE,
    9: END_OF_TURN, 10: PYTHON_TAG, 11: IMAGE,
}  # fmt: skip


class Naming(enum.Enum):
    """Who names them."""

    LLAMA_3_1 = "llama3.1"
    """Meta, since Llama 3.1: every meaning has its name. Ours."""
    LLAMA_3 = "llama3"
    """Meta, April 2024: base and instruct models without messages, tools and images."""
    HUGGING_FACE = "huggingface"
    """The tokenizer files of Llama 3.1 and later at Hugging Face."""

    @property
    def names(self) -> tuple[str, ...]:
        """Position i holds the name of id `num_ranks + i`."""
        return _NAMES[self]


_UNNAMED = {
    Naming.LLAMA_3_1: (), Naming.LLAMA_3: (FINETUNE_RIGHT_PAD, STEP, END_OF_MESSAGE, PYTHON_TAG, IMAGE),
    Naming.HUGGING_FACE: (STEP, IMAGE),
}  # fmt: skip


def _names(unnamed: tuple[str, ...]) -> tuple[str, ...]:
    """Positions without a name of their own are reserved, and counted from 0."""
    own = {position: name for position, name in _MEANING.items() if name not in unnamed}
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(NUM_SPECIAL_TOKENS))
    return tuple(own.get(position) or next(reserved) for position in range(NUM_SPECIAL_TOKENS))


_NAMES = {naming: _names(unnamed) for naming, unnamed in _UNNAMED.items()}
SPECIAL_TOKENS = Naming.LLAMA_3_1.names

"""The 256 special tokens that follow the byte-pair ranks, in Llama 3.1 order and Meta's naming."""

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

_RESERVED = tuple(f"<|reserved_special_token_{n}|>" for n in range(NUM_SPECIAL_TOKENS - 10))

SPECIAL_TOKENS: tuple[str, ...] = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    *_RESERVED[:2],
    FINETUNE_RIGHT_PAD,
    STEP,
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON_TAG,
    IMAGE,
    *_RESERVED[2:],
)
"""Position i holds the name of id `num_ranks + i`. The same reserved *name* has other ids in other releases
(Hugging Face, Llama 3 of April 2024), so files are compared by id, never by name."""

"""Hugging Face's tokenizer files: read into ranks, and written so that they give the ids of ours.

Their `tokenizer.json` spells bytes as printable characters (GPT-2's table), and lists every merge that the ranks imply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3_jax.tokenizer.json_file import read_object
from llama3_jax.tokenizer.special_tokens import (
    BEGIN_OF_TEXT,
    END_OF_TURN,
    FINETUNE_RIGHT_PAD,
    NUM_SPECIAL_TOKENS,
    Naming,
)

TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
"""The dialog layout of Llama 3.1 at Hugging Face (`dialog.HuggingFaceLayout`), in the language of their templates."""


def read_tokens(path: Path, split_pattern: str) -> list[bytes]:
    """Tokens in rank order. Args: split_pattern: that the file must have.

    Raises: FileNotFoundError; ValueError if it is not the byte-pair vocabulary of a Llama 3, with 256 special tokens after it.
    """
    fields = read_object(path)

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; it is not the tokenizer of a Llama 3, take tokenizer.model")

    model, added = fields.get("model"), fields.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not isinstance(added, list) or model.get("type", "BPE") != "BPE":
        raise refuse("it has no byte-pair vocabulary with added tokens")
    patterns = list(_patterns(fields.get("pre_tokenizer")))
    if patterns != [split_pattern]:
        raise refuse(f"text is split by {str(patterns)[:200]}")
    tokens: list[bytes | None] = [None] * len(vocabulary)
    for spelled, rank in vocabulary.items():
        if type(rank) is not int or not 0 <= rank < len(tokens) or tokens[rank] is not None:
            raise refuse(f"{spelled[:60]!r} has the id {str(rank)[:20]}, which is taken, or not one of 0..{len(tokens) - 1}")
        try:
            tokens[rank] = bytes(_BYTE_OF[character] for character in spelled)
        except KeyError as error:
            raise refuse(f"{spelled[:60]!r} has a character that stands for no byte ({error})") from None
    ids = sorted(token.get("id") for token in added if isinstance(token, dict) and type(token.get("id")) is int)
    if ids != list(range(len(tokens), len(tokens) + NUM_SPECIAL_TOKENS)):
        raise refuse(f"{len(added)} added tokens are not {NUM_SPECIAL_TOKENS} special ones with the ids after {len(tokens) - 1}")
    return tokens


def tokenizer_files(tokens: Sequence[bytes], split_pattern: str, context_length: int) -> dict[str, str]:
    """The contents of `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and the chat template by file name.

    Args: tokens: in rank order; context_length: positions of the model.
    """
    names = Naming.HUGGING_FACE.names
    added = [
        {
            "id": len(tokens) + number, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for number, name in enumerate(names)
    ]  # fmt: skip
    bos = {"SpecialToken": {"id": BEGIN_OF_TEXT, "type_id": 0}}
    sequences = {which: {"Sequence": {"id": which, "type_id": number}} for number, which in enumerate("AB")}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, sequences["A"]],
        "pair": [bos, sequences["A"], {"SpecialToken": {"id": BEGIN_OF_TEXT, "type_id": 1}}, sequences["B"]],
        "special_tokens": {
            BEGIN_OF_TEXT: {"id": BEGIN_OF_TEXT, "ids": [len(tokens) + names.index(BEGIN_OF_TEXT)], "tokens": [BEGIN_OF_TEXT]}
        },
    }
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splitting = {"type": "Split", "pattern": {"Regex": split_pattern}, "behavior": "Isolated", "invert": False}
    fields = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [splitting, as_bytes]},
        "post_processor": {"type": "Sequence", "processors": [as_bytes, template]},
        "decoder": {**as_bytes, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {_spelled(token): rank for rank, token in enumerate(tokens)},
            "merges": [f"{_spelled(left)} {_spelled(right)}" for left, right in merges(tokens)],
        },
    }  # fmt: skip
    special = {"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN, "pad_token": FINETUNE_RIGHT_PAD}
    config = {
        **special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length,
        "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": {
            str(each["id"]): {key: value for key, value in each.items() if key != "id"} for each in added
        },
    }  # fmt: skip
    template_text = TEMPLATE.read_text(encoding="utf-8")
    return {
        TOKENIZER_JSON: json.dumps(fields, ensure_ascii=False, indent=1) + "\n",
        TOKENIZER_CONFIG: json.dumps({**config, "chat_template": template_text}, ensure_ascii=False, indent=2) + "\n",
        SPECIAL_TOKENS_MAP: json.dumps(special, indent=2) + "\n",
        "chat_template.jinja": template_text,
    }


def special_ids(num_ranks: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """As `config.json` and `generation_config.json` have them. Args: stop_ids: at which generation ends."""
    names = Naming.HUGGING_FACE.names
    return {
        "bos_token_id": num_ranks + names.index(BEGIN_OF_TEXT),
        "eos_token_id": sorted(stop_ids),
        "pad_token_id": num_ranks + names.index(FINETUNE_RIGHT_PAD),
    }


def merges(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair of tokens that together are one, by the rank of that one, then by their own."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token in tokens:
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        yield from sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _patterns(pre_tokenizer: Any) -> Iterator[str]:
    """Expressions that text is split by, inside a sequence of steps."""
    if not isinstance(pre_tokenizer, Mapping):
        return
    if isinstance(steps := pre_tokenizer.get("pretokenizers"), list):
        for step in steps:
            if isinstance(step, Mapping) and "pretokenizers" not in step:  # one level deep, as they are written
                yield from _patterns(step)
    if pre_tokenizer.get("type") == "Split":
        pattern = pre_tokenizer.get("pattern")
        yield str(pattern.get("Regex") if isinstance(pattern, Mapping) else pattern)


def _spelling() -> dict[int, str]:
    """A printable character for each byte: itself in Latin-1 where it is one, else the next above 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}


_CHARACTER_OF = _spelling()
_BYTE_OF = {character: byte for byte, character in _CHARACTER_OF.items()}


def _spelled(token: bytes) -> str:
    return "".join(_CHARACTER_OF[byte] for byte in token)

"""`llama3 convert`: weights from any of three formats into any other, with all that their users expect beside them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from llama3_jax.checkpoint.folder import PARTIAL, Folder
from llama3_jax.checkpoint.formats import hugging_face, meta
from llama3_jax.checkpoint.formats.convert import Files, Report, check, num_bytes, write
from llama3_jax.checkpoint.formats.rotary import require_scaling
from llama3_jax.checkpoint.formats.table import ALL, Tensor, tensors
from llama3_jax.checkpoint.formats.weights import InDtype, Weights, WithKvHeads, dtype_named
from llama3_jax.commands.run_directory import CHECKPOINTS, TOKENIZER
from llama3_jax.commands.weights import Format, Opened, open_weights
from llama3_jax.config.errors import ConfigError
from llama3_jax.config.overrides import assign, parse_override
from llama3_jax.config.schema import build
from llama3_jax.config.tree import to_mapping, to_node
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.tokenizer.bpe import SPLIT_PATTERN
from llama3_jax.tokenizer.hugging_face import (
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    special_ids,
    tokenizer_files,
)
from llama3_jax.tokenizer.object_store import is_url
from llama3_jax.tokenizer.train_bpe import save_ranks

MARGIN_BYTES = 2**28
"""Wanted on the disk beyond what is written."""
MAY_CHANGE = ("context_length", "rope_theta", "rope_scaling", "norm_eps")
"""What no shape shows, and no format but ours says in full."""
COPIED = (
    TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, "chat_template.jinja", "generation_config.json",
)  # fmt: skip
"""What goes from one directory of Hugging Face's to another as it is."""


def convert(
    source: str | Path,
    out: str | Path,
    to: str | Format,
    overrides: Sequence[str] = (),
    *,
    dtype: str | None = None,
    shards: int | None = None,
    kv_heads: int | None = None,
    tokenizer: str | Path | None = None,
    step: int | None = None,
    stream: TextIO | None = None,
) -> Path:
    """Writes the weights of `source` in another format: the same as `llama3 convert SOURCE OUT --to FORMAT`.

    Args:
        source: a directory of Hugging Face's (config.json, safetensors) or Meta's (params.json, consolidated.NN.pth), a run
            directory, exported weights or a checkpoint of either.
        out: a directory that does not exist yet; OUT.partial until it is whole, and taken up there if it was killed.
        overrides: `rope_scaling.factor=32` and the like, of `MAY_CHANGE`, for what Meta's files do not say.
        dtype: of every tensor; None keeps each as it is.
        shards: files of the result; None for one of Meta's, or as many as keep Hugging Face's at 5 GB each.
        kv_heads: key/value heads of the result; None keeps those of `source`.
        tokenizer: a rank file, where `source` has none.
        step: of a run directory's checkpoint; None takes the newest.
    Raises: FileNotFoundError for a missing file; ValueError for weights that are damaged, mixed, not finite, or do not fit
        their config or vocabulary, or for a request that cannot be met; OSError if the disk has no room. Nothing is written
        then.
    """
    to, out, stream = Format(to), Path(out).expanduser(), stream or sys.stdout
    print(f"looking at {source}", file=stream, flush=True)
    opened = open_weights(source, tokenizer=tokenizer, step=step)
    weights = _wanted(opened.weights, overrides, dtype, kv_heads)
    _require_new(out, opened)
    partial = out.with_name(out.name + PARTIAL)
    files = _files(to, partial, weights, opened, shards)
    for line in _summary(opened, weights, to, out):
        print(line, file=stream)
    _require_room(partial, files.disk_bytes)
    begun = partial.exists()
    with _reporting(stream) as report:
        check(weights, report)
        taken_up = write(weights, files, partial, _identity(opened, weights, to, shards), report)
    if taken_up:
        print(f"{taken_up} tensors were written before, by a conversion that was stopped", file=stream)
    elif begun:
        print(f"what lay in {partial} was of another conversion, and is replaced", file=stream)
    save_ranks(partial / TOKENIZER, opened.tokenizer.tokens)
    for name, content in _beside(to, weights, opened).items():
        (partial / name).write_bytes(content)
    if to is Format.NATIVE:
        Folder(partial / CHECKPOINTS).commit(0)
    os.replace(partial, out)
    return out


@dataclass(frozen=True)
class _Described:
    """The same weights, told otherwise of what no shape shows."""

    weights: Weights
    config: ModelConfig

    @property
    def name(self) -> str:
        return self.weights.name

    def dtype(self, tensor: Tensor) -> np.dtype:
        return self.weights.dtype(tensor)

    def read(self, tensor: Tensor, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        return self.weights.read(tensor, rows, columns)


def _wanted(weights: Weights, overrides: Sequence[str], dtype: str | None, kv_heads: int | None) -> Weights:
    """The weights as they are to be written."""
    if overrides:
        root = to_node(to_mapping(weights.config), weights.name)
        for text in overrides:
            key, value = parse_override(text)
            if key.partition(".")[0] not in MAY_CHANGE:
                raise ValueError(f"{text}: weights are as they are; only {', '.join(MAY_CHANGE)} may be told otherwise")
            root = assign(root, key, value)
        try:
            config = build(ModelConfig, root)
        except ConfigError as error:
            raise ValueError(f"{' '.join(overrides)}: {error}") from None
        require_scaling(config, " ".join(overrides), "rope_scaling")
        weights = _Described(weights, config)
    if kv_heads is not None and kv_heads != weights.config.num_kv_heads:
        weights = WithKvHeads(weights, kv_heads)
    return InDtype(weights, dtype_named(dtype)) if dtype is not None else weights


def _require_new(out: Path, opened: Opened) -> None:
    if is_url(out):
        raise ValueError(f"nothing is written to {out}; name a directory here")
    if out.exists():
        raise ValueError(f"{out} exists already; remove it, or name another")
    if out.resolve().is_relative_to(opened.directory.resolve()):
        raise ValueError(f"{out} lies inside the weights that are read; name a directory elsewhere")


def _files(to: Format, partial: Path, weights: Weights, opened: Opened, shards: int | None) -> Files:
    if shards is not None and (shards < 1 or to is Format.NATIVE):
        raise ValueError(f"--shards {shards}: use 1 or more, and only with --to hugging_face or --to meta")
    if to is Format.HUGGING_FACE:
        return hugging_face.HuggingFaceFiles(partial, weights, shards)
    if to is Format.META:
        return meta.MetaFiles(partial, weights, shards)
    from llama3_jax.checkpoint.formats.native import NativeFiles

    described = {
        "model": to_mapping(weights.config),
        "tokenizer": opened.tokenizer.fingerprint,
        "averaged": 0,
        "made_from": {"weights": str(opened.directory.resolve()), "format": opened.format.value},
    }
    return NativeFiles(Folder(partial / CHECKPOINTS).writing(0), weights, described)


def _beside(to: Format, weights: Weights, opened: Opened) -> dict[str, bytes]:
    """The files that belong to the weights, but for the ranks, by name."""
    cfg, tokenizer = weights.config, opened.tokenizer
    if to is Format.NATIVE:
        return {}
    if to is Format.META:
        return {meta.PARAMS: _json(meta.params_of(cfg)), meta.MORE: _json(meta.more_of(cfg))}
    length = hugging_face.positions(cfg)
    special = special_ids(len(tokenizer.tokens), tokenizer.stop_ids)
    generation = {**special, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    made = {name: text.encode() for name, text in tokenizer_files(tokenizer.tokens, SPLIT_PATTERN, length).items()}
    if opened.format is Format.HUGGING_FACE and opened.ranks == opened.directory / TOKENIZER_JSON:
        there = {name: opened.directory / name for name in COPIED}
        made = {name: path.read_bytes() for name, path in there.items() if path.is_file()}
    made.setdefault("generation_config.json", _json(generation))
    first = weights.dtype(next(tensors(cfg))).name
    return {**made, hugging_face.CONFIG: _json(hugging_face.config_of(cfg, first, special))}


def _json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _identity(opened: Opened, weights: Weights, to: Format, shards: int | None) -> dict[str, Any]:
    """What must be the same for a conversion that was stopped to be taken up."""
    files = sorted(path for path in opened.directory.rglob("*") if path.is_file())
    return {
        "from": {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
        "to": to.value,
        "shards": shards,
        "model": to_mapping(weights.config),
        "dtypes": sorted({weights.dtype(tensor).name for tensor in tensors(weights.config)}),
    }


def _summary(opened: Opened, weights: Weights, to: Format, out: Path) -> Iterator[str]:
    cfg = weights.config
    kinds = "+".join(sorted({weights.dtype(tensor).name for tensor in tensors(cfg)}))
    yield (
        f"{opened.directory} ({opened.format.value}): {cfg.num_parameters:,} parameters, {cfg.num_layers} layers of width "
        f"{cfg.model_dim}, {cfg.num_heads} heads over {cfg.num_kv_heads} key/value heads, {cfg.vocab_size:,} tokens, {kinds}"
    )
    scaling = cfg.rope_scaling
    told = f"scaled by {scaling.factor:g} from {scaling.original_context_length} positions" if scaling else "not scaled"
    tied = ", output matrix tied to the embedding" if cfg.tie_embeddings else ""
    yield f"rotary embedding: theta {cfg.rope_theta:g}, {told}, context of {hugging_face.positions(cfg)}{tied}"
    if to is Format.META and scaling and scaling != RopeScaling(factor=meta.FACTOR):
        yield f"note: Meta's own code turns every scaled model by its factor of {meta.FACTOR:g}; ours reads {meta.MORE}"
    yield f"into {out} ({to.value}), {num_bytes(weights):,} bytes of tensors"


def _require_room(partial: Path, needed: int) -> None:
    """Raises: OSError if the disk has not enough free bytes for what is not written yet."""
    written = sum(path.stat().st_blocks * 512 for path in partial.rglob("*") if path.is_file())
    place = next(path for path in (partial, *partial.absolute().parents) if path.is_dir())
    free, wanted = shutil.disk_usage(place).free, max(0, needed - written) + MARGIN_BYTES
    if free < wanted:
        raise OSError(f"{wanted:,} bytes are needed and {place} has {free:,} free; make room, or name another directory")


@contextmanager
def _reporting(stream: TextIO) -> Iterator[Report]:
    """A bar in a terminal, a line now and then anywhere else."""
    if not stream.isatty():
        yield _lines(stream)
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream)) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, behind: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=behind)

        yield report


LINE_EVERY_S = 10.0


def _lines(stream: TextIO) -> Callable[[str, int, int], None]:
    said = {"what": "", "at": 0.0}

    def report(what: str, behind: int, total: int) -> None:
        now = time.monotonic()
        if behind == total or what != said["what"] or now - said["at"] >= LINE_EVERY_S:
            print(f"{what}: {behind / 1e6:,.1f} of {total / 1e6:,.1f} MB", file=stream, flush=True)
            said.update(what=what, at=now)

    return report

"""A run of the main job small enough for a test: every phase and part of it, a few seconds; and what it leaves."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from llama3_jax.checkpoint.manifest import ARRAYS, verify
from llama3_jax.train.journal import read_metrics

RUN = """
name: tiny
seed: 0
data:
  kind: corpus
  sources:
    tales: {{kind: files, paths: [{directory}/tales.jsonl]}}
    lists: {{kind: files, paths: [{directory}/lists.jsonl]}}
  max_bytes_per_source: null
  held_out_fraction: 0.1
model:
  num_layers: 2
  model_dim: 32
  num_heads: 4
  num_kv_heads: 2
  head_dim: 8
  ffw_dim: 64
  vocab_size: 576
  context_length: 32
precision: float32
optimizer: {{beta1: 0.9, beta2: 0.95, epsilon: 1.0e-8, weight_decay: 0.1, clip_norm: 1.0}}
phases:
  - name: initial
    learning_rate: {{kind: warmup_cosine, peak: 1.0e-2, final: 1.0e-3, warmup_steps: 4, steps: 24}}
    stages:
      - {{name: short, tokens: 512, sequence_length: 16, tokens_per_step: 64, mix: {{tales: 0.7, lists: 0.3}}}}
      - {{name: wide, tokens: 1024, sequence_length: 32, tokens_per_step: 128, rows_per_group: 2}}
  - name: long_context
    learning_rate: {{kind: continue}}
    rope_scaling: {{factor: 4, original_context_length: 32}}
    stages:
      - {{name: to_64, tokens: 512, sequence_length: 64, tokens_per_step: 128}}
  - name: anneal
    learning_rate: {{kind: linear_to, final: 0}}
    average_every: 2
    stages:
      - {{name: anneal, tokens: 1024, sequence_length: 64, tokens_per_step: 128, mix: {{tales: 0.9, lists: 0.1}}}}
held_out: {{every_steps: 10, sequence_length: 32, tokens_per_source: 512, rows_per_batch: 4}}
checkpoint: {{every_steps: 5, keep_last: 2}}
samples: {{every_steps: 10, prompt_tokens: 6, max_new_tokens: 8}}
"""
STEPS = 28
SHORT = ["phases=[{name: only, learning_rate: {kind: warmup_cosine, peak: 1e-3, final: 1e-4, warmup_steps: 1, steps: 9}, "
         "stages: [{name: s, tokens: 256, sequence_length: 32, tokens_per_step: 128}]}]"]  # fmt: skip
"""Overrides: two steps of one phase."""
WORDS = "the a red old king queen river stone went saw took gave and then home far bright quiet never".split()


def write_run(directory: Path) -> Path:
    """Documents of two sources and the run file; returns the run file."""
    chance = random.Random(7)
    for name in ("tales", "lists"):
        lines = []
        for number in range(120):
            text = " ".join(chance.choices(WORDS, k=chance.randrange(5, 60))) + "."
            text = text if name == "tales" else "\\n".join(f"- {word}" for word in text.split())
            lines.append(f'{{"id": "{name}{number}", "text": "{text}"}}')
        (directory / f"{name}.jsonl").write_text("\n".join(lines))
    (directory / "tiny.yaml").write_text(RUN.format(directory=directory))
    return directory / "tiny.yaml"


def start(run_file: Path, runs: Path, *overrides: str, **how) -> subprocess.Popen:
    """`llama3 train` as a process of its own."""
    command = [sys.executable, "-m", "llama3_jax", "train", str(run_file), "--runs", str(runs), *overrides]
    return subprocess.Popen(command, **{"stdout": subprocess.DEVNULL, "text": True} | how)


TIMES = {"tokens_per_s", "compile_s"}


def written(directory: Path) -> list[dict]:
    """Every record of a run's journal in its order, bit for bit, but for how long things took."""
    records = read_metrics(directory / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def samples(directory: Path) -> dict[str, str]:
    """What is in the directory of samples."""
    return {path.name: path.read_text() for path in sorted((directory / "samples").iterdir())}


def sound_checkpoints(directory: Path) -> list[int]:
    """The steps of a run's checkpoints, after each was verified; nothing half written or half deleted lies beside them."""
    steps = []
    for path in sorted((directory / "checkpoints").iterdir()):
        assert path.name.isdigit(), f"{path} was left behind"
        steps.append(verify(path).step)
    return steps


def newest_state(directory: Path) -> dict:
    """All that the newest checkpoint holds, bit for bit, but for the name of the run."""
    path = directory / "checkpoints" / f"{sound_checkpoints(directory)[-1]:08d}"
    manifest = verify(path)
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in manifest.arrays}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = reader.restore(path / ARRAYS, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    bits = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    return {**manifest.meta, "run": {**manifest.meta["run"], "name": None}, "arrays": bits}

"""The `llama3` command."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from functools import partial

from llama3_jax import __version__
from llama3_jax.commands.job import job, place_of
from llama3_jax.config.errors import ConfigError
from llama3_jax.curation.engine import PieceFailed, WorkersLost
from llama3_jax.train.diverged import TrainingDiverged
from llama3_jax.train.gate import PhaseNotPassed
from llama3_jax.train.preemption import EXIT_INTERRUPTED, Interrupted, Preemption

OF_EXTRAS = {
    **dict.fromkeys(("daft", "fasttext", "isal", "loky", "ray", "resiliparse", "trafilatura"), "data"),
    "s3fs": "s3",
    "gcsfs": "gcs",
}
"""Modules that an extra of ours brings, and which."""

PATIENCE_S = 4.0
"""For a signal to be answered by the program itself, where nothing can be lost."""

EXIT_STATUS = """exit status:
  0   done
  1   an error that the message explains, or a phase whose gate did not pass
  2   wrong command line or run file; nothing was started
  75  training was stopped by SIGINT (Ctrl-C), SIGTERM or SIGUSR1: every finished step is saved, unless Ctrl-C after
      another signal cut that short; run the same command again to continue
  130 another command was stopped by Ctrl-C

A message too short? LLAMA3_TRACEBACK=1 shows where it came from."""

TRAIN = """Pre-trains a Llama 3 as a run file says, in the directory RUNS/<name>. Run again, it continues where it was, or
says that it is complete.

  llama3 train configs/quickstart.yaml
  llama3 train quickstart --data book.txt notes/ corpus.jsonl.gz       your own documents instead
  llama3 train quickstart name=wide model.ffw_dim=1024                 change values by their dotted keys
  llama3 train llama3_8b --print-config                                every value, and where it came from
  JAX_NUM_CPU_DEVICES=8 llama3 train quickstart name=mesh mesh.data=2 mesh.model=2      on an emulated mesh"""

GENERATE = """Continues prompts with the newest checkpoint of a run directory (the average, once annealing has one), or with
weights in Hugging Face's or Meta's format.

  llama3 generate runs/quickstart --prompt "import "
  llama3 generate runs/quickstart --prompt-file question.txt --temperature 0 --max-new-tokens 200"""

CHECKPOINT = """Looks at the checkpoints of a run directory, or writes their parameters into a directory of their own.

  llama3 checkpoint ls runs/quickstart            of each: step, tokens, size, config, phase and stage
  llama3 checkpoint verify runs/quickstart        reads every file and compares its hash; exit status 1 if one differs
  llama3 checkpoint average runs/quickstart --steps 200 250     mean in float32; --exponential DECAY instead
  llama3 checkpoint export-weights runs/quickstart              of the newest: its average where it has one
  llama3 generate runs/quickstart/exports/weights-00000272      generate from either, list it, verify it, train on from it
  llama3 checkpoint ls gs://BUCKET/PATH                         where checkpoint.directory put them, without the run directory"""

TOKENIZER = """Learns a vocabulary, adds to one what other languages need, and tells how far texts are compressed.

  llama3 tokenizer train --out en.model --vocab-size 8448 --texts english.jsonl.gz
  llama3 tokenizer extend --base en.model --out all.model --add 2048 --texts others/ --keep english.jsonl.gz
  llama3 tokenizer compare --ranks en.model all.model --texts german.txt korean.txt --plot compression.png

`extend` gives every piece of the --keep texts the ids that it had, but for words in scripts that they only quote."""

CURATE = """From web pages, books and code to clean token shards: read, extract, filter, deduplicate, judge, decontaminate,
write. What a stage rejects it keeps, with the reason. Run again, it goes on where it was; what has changed is done again.

  llama3 curate curate_quickstart --data DIR          through every stage; DIR holds what the run file names
  llama3 curate my_run.yaml engine.workers=2          change values by their dotted keys
  llama3 curate my_run.yaml engine.runner=ray engine.address=HOST:6379        on a Ray cluster, the same bytes
  llama3 train quickstart --data runs/curate_quickstart                       trains on the shards"""

LANGUAGE = """Trains the model that tells languages apart, from lines of text and its language.

  llama3 language --labelled sentences.jsonl.gz --out languages.bin"""

CONVERT = """Weights from Hugging Face's format (safetensors), Meta's (consolidated.NN.pth) or ours into another of the three,
with config and tokenizer. Every tensor is read and found finite before the first is written. Stopped, it goes on where it was.

  llama3 convert Meta-Llama-3.1-8B/ llama3_8b/ --to native          then: llama3 generate llama3_8b --prompt "Hello"
  llama3 convert runs/quickstart quickstart-hf/ --to hugging_face --dtype bfloat16
  llama3 convert llama3_70b/ Llama-70B/ --to meta --shards 8
  llama3 convert Llama-405B-MP16/ llama3_405b/ --to native --kv-heads 8        heads that are stored twice, once
  llama3 convert Llama3.2-1B/ 1b/ --to hugging_face rope_scaling.factor=32     what Meta's files do not say"""

BENCH = """train: measures our training step on this machine, round by round beside a bare jax step and, where they are
installed, transformers on torch: tokens/s, share of the machine's own matmul peak, seconds to compile, memory by remat policy.
attention: measures attention alone, forward and backward, on rows of one document and of many; --tune measures its tiles.
decode: measures attention of one new token of each request against its pages, beside the speed of the memory.
loss: measures the loss over the vocabulary, value and gradients, beside the one that holds all logits.
data: measures how fast token shards become batches, beside a plain Grain pipeline and a packing loop as torchtitan writes it;
and what each packing policy pads, drops and cuts.
tokenizer: measures how fast texts become token shards, beside tiktoken's own batch encoding.
curate: measures each part of curation on one core, beside datatrove where it is installed, and the whole.
all: runs the commands that a file lists, each in a process of its own, within a time; what they say becomes a dated report.

  llama3 bench train                                              58M parameters, rows of one document
  llama3 bench train bench_packed                                 rows of many documents, cut anew in every batch
  llama3 bench train bench_8b                                     on an accelerator
  llama3 bench attention                                          each implementation that runs here beside the library's
  llama3 bench attention bench_attention_h100                     the heads of 8B and 1B, beside cuDNN
  llama3 bench all bench_h100                                     an H100 or H200 in eight minutes: right first, then how fast
  llama3 bench decode                                             keys and values on pages
  llama3 bench tokenizer                                          Python's documentation and library
  llama3 bench data                                               random documents
  llama3 bench data 'shards=[corpus/*.arrayrecord]'               your own
  JAX_NUM_CPU_DEVICES=4 llama3 bench train mesh.data=2 mesh.model=2"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sample may have characters that this terminal has not
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    if any(argument.startswith("-") or not hasattr(parsed, "overrides") for argument in rest):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest  # values given after an option
    try:
        return parsed.run(parsed)
    except (Exception, KeyboardInterrupt) as error:
        message, status = _told(error)
        print(message, file=sys.stderr)
        return status


def _told(error: BaseException) -> tuple[str, int]:
    """What to print of an exception, and the exit status.

    Some have a message that is meant for the user; any other is ours and shows its traceback.
    """
    if isinstance(error, Interrupted):
        return f"\n{error}", EXIT_INTERRUPTED
    if isinstance(error, KeyboardInterrupt):
        return "\ninterrupted", 130
    if isinstance(error, ModuleNotFoundError) and (extra := OF_EXTRAS.get((error.name or "").split(".")[0])):
        return f"error: {error.name} is not installed; pip install 'llama3_jax[{extra}]' (in a checkout: '.[{extra}]')", 1
    expected = isinstance(error, ValueError | OSError | TrainingDiverged | PhaseNotPassed | PieceFailed | WorkersLost)
    if not expected or os.environ.get("LLAMA3_TRACEBACK"):
        return "".join(traceback.format_exception(error)), 1
    return f"error: {error}", 2 if isinstance(error, ConfigError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama3", description="The system of the paper 'The Llama 3 Herd of Models', in JAX.", epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"llama3_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, summary: str, description: str, run) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=summary, description=description, epilog=EXIT_STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(run=run)
        return added

    train = command("train", "pre-train from a run file", TRAIN, _train)
    train.add_argument("config", metavar="RUN.yaml", help="a run file, or the name of a published one")
    train.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace the file's")
    train.add_argument(
        "--data", nargs="+", default=[], metavar="PATH", help=".txt, .md, .jsonl(.gz/.zst), .parquet or directories"
    )
    train.add_argument("--runs", default=None, metavar="DIR", help="where run directories lie (default: ./runs)")
    train.add_argument("--print-config", action="store_true", help="print every value and where it came from, and stop")
    several = train.add_argument_group(
        "a job of several processes",
        "Start the same command once for each, on one shared file system; launch/local_job.sh does so on this machine. The "
        "mesh is over the devices of all. Or by the environment: LLAMA3_COORDINATOR, LLAMA3_NUM_PROCESSES, LLAMA3_PROCESS_ID.",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT",
        help="of process 0, a port that is free there; auto: as Slurm, Open MPI, Kubernetes or the TPU pod says",
    )  # fmt: skip
    several.add_argument("--num-processes", type=int, metavar="N")
    several.add_argument("--process-id", type=int, metavar="I", help="of this process, from 0")

    generate = command("generate", "continue prompts with a trained model", GENERATE, _generate)
    generate.add_argument("run_directory", metavar="DIR", help="a run directory, or weights of any format")
    generate.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    generate.add_argument("--prompt-file", action="append", default=[], metavar="FILE", help="UTF-8 text; several times too")
    generate.add_argument("--max-new-tokens", type=int, default=None, help="default: 128, or what the context has room for")
    generate.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest token")
    generate.add_argument("--top-p", type=float, default=0.9)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--step", type=int, default=None, help="of the checkpoint (default: the newest)")

    checkpoint = command("checkpoint", "list, verify, average or export the checkpoints of a run", CHECKPOINT, _checkpoint)
    checkpoint.add_argument("what", choices=["ls", "verify", "average", "export-weights"])
    checkpoint.add_argument("run_directory", metavar="RUN_DIR")
    checkpoint.add_argument("--steps", type=int, nargs="+", default=[], metavar="STEP", help="to average (default: all)")
    checkpoint.add_argument("--exponential", type=float, metavar="DECAY", help="average with this decay, oldest first")
    checkpoint.add_argument("--step", type=int, default=None, help="to export (default: the newest)")
    checkpoint.add_argument("--out", metavar="DIR", help="a new directory (default: inside RUN_DIR/exports)")

    tokenizer = command("tokenizer", "learn, extend and compare vocabularies", TOKENIZER, _tokenizer)
    tokenizer.add_argument("what", choices=["train", "extend", "compare"])
    tokenizer.add_argument("--texts", nargs="+", required=True, metavar="PATH", help=".txt, .md, .jsonl, .parquet, directories")
    tokenizer.add_argument("--out", metavar="FILE", help="the new rank file")
    tokenizer.add_argument("--vocab-size", type=int, metavar="N", help="train: ids altogether, 256 special ones among them")
    tokenizer.add_argument("--base", metavar="FILE", help="extend: the rank file to begin with")
    tokenizer.add_argument("--add", type=int, metavar="N", help="extend: new ranks")
    tokenizer.add_argument("--keep", nargs="+", metavar="PATH", help="extend: texts whose ids must stay as they are")
    tokenizer.add_argument("--ranks", nargs="+", metavar="FILE", help="compare: rank files")
    tokenizer.add_argument("--plot", metavar="PNG", help="compare: characters per token as a picture")

    curate = command("curate", "web pages, books and code to clean token shards", CURATE, _curate)
    curate.add_argument("config", metavar="RUN.yaml", help="a run file, or the name of a published one")
    curate.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace the file's")
    curate.add_argument("--data", default=None, metavar="DIR", help="where its relative paths begin (default: $LLAMA3_JAX_DATA)")
    curate.add_argument("--runs", default=None, metavar="DIR", help="where run directories lie (default: ./runs)")
    curate.add_argument("--print-config", action="store_true", help="print every value and where it came from, and stop")

    language = command("language", "train a language identifier", LANGUAGE, _language)
    language.add_argument("--labelled", nargs="+", required=True, metavar="PATH", help=".jsonl(.gz/.zst) of `text` and `lang`")
    language.add_argument("--out", required=True, metavar="FILE", help="the model")

    convert = command("convert", "weights from and to Hugging Face's and Meta's formats", CONVERT, _convert)
    convert.add_argument("source", metavar="FROM", help="weights of any format, or a run directory")
    convert.add_argument("out", metavar="OUT", help="a new directory")
    convert.add_argument("overrides", nargs="*", metavar="a.b=c", help="context_length, rope_theta, rope_scaling, norm_eps")
    convert.add_argument("--to", required=True, choices=["native", "hugging_face", "meta"])
    convert.add_argument("--dtype", metavar="DTYPE", help="bfloat16, float16 or float32 (default: as each tensor is)")
    convert.add_argument("--shards", type=int, metavar="N", help="files (default: one of Meta's; Hugging Face's of 5 GB)")
    convert.add_argument("--kv-heads", type=int, metavar="N", help="key/value heads (default: as they are)")
    convert.add_argument("--tokenizer", metavar="FILE", help="rank file or tokenizer.json, where FROM has none")
    convert.add_argument("--step", type=int, metavar="N", help="of a run's checkpoint (default: the newest)")

    bench = command("bench", "measure this machine", BENCH, _bench)
    bench.add_argument("what", choices=list(BENCHES), help="what is measured")
    bench.add_argument("config", metavar="BENCH.yaml", nargs="?", help="default: the published one")
    bench.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that replace the file's")
    bench.add_argument("--tune", action="store_true", help="attention: measure tile sizes and keep the fastest in the table")
    bench.add_argument("--predict", metavar="CHIP", help="attention: bounds for a TPU that is not here (v5p, v6e)")
    bench.add_argument("--print-config", action="store_true", help="print every value and where it came from, and stop")

    command(
        "doctor",
        "check this machine and installation",
        "Prints versions and devices, and the line that mends what is missing.",
        _doctor,
    )
    return parser


def _train(arguments: argparse.Namespace) -> int:
    place = place_of(arguments.coordinator, arguments.num_processes, arguments.process_id, os.environ)
    with Preemption(patience_s=PATIENCE_S) as preemption, job(place, preemption, _told):
        from llama3_jax.commands.train import RUNS, compose, run_training

        swallowed = [word for word in arguments.data if re.match(r"[\w.]+=", word) and not os.path.exists(word)]
        data = [word for word in arguments.data if word not in swallowed]
        run = compose(arguments.config, arguments.overrides + swallowed, data=data)
        if arguments.print_config:
            print(run.render(), end="")
            return 0
        run_training(run, arguments.runs or RUNS, preemption=preemption)
        return 0


def _generate(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.generate import generate, read_prompt
    from llama3_jax.generate.settings import Sampling

    prompts = arguments.prompt + [read_prompt(path) for path in arguments.prompt_file]
    texts = generate(
        arguments.run_directory, prompts, max_new_tokens=arguments.max_new_tokens, step=arguments.step,
        sampling=Sampling(temperature=arguments.temperature, top_p=arguments.top_p), seed=arguments.seed,
    )  # fmt: skip
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"{prompt}{text}\n")
    return 0


def _checkpoint(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.checkpoint import listing, verdicts
    from llama3_jax.commands.export import average_checkpoints, export_weights

    of_no_use = {
        "ls": ("steps", "exponential", "step", "out"), "verify": ("steps", "exponential", "step", "out"),
        "average": ("step",), "export-weights": ("steps", "exponential"),
    }[arguments.what]  # fmt: skip
    if given := [f"--{name}" for name in of_no_use if getattr(arguments, name) not in (None, [])]:
        raise ValueError(f"llama3 checkpoint {arguments.what} has no {', '.join(given)}; see llama3 checkpoint --help")
    if arguments.what in ("average", "export-weights"):
        if arguments.what == "average":
            out = average_checkpoints(arguments.run_directory, arguments.steps, decay=arguments.exponential, out=arguments.out)
        else:
            out = export_weights(arguments.run_directory, step=arguments.step, out=arguments.out)
        print(f'written: {out}\ntry it: llama3 generate {out} --prompt "import "')
        return 0
    lines, sound = verdicts(arguments.run_directory) if arguments.what == "verify" else (listing(arguments.run_directory), True)
    for line in lines:
        print(line)
    return 0 if sound else 1


def _curate(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.curate import RUNS, compose, run_curation

    loaded = compose(arguments.config, arguments.overrides, root=arguments.data)
    if arguments.print_config:
        print(loaded.render(), end="")
        return 0
    run_curation(loaded, arguments.runs or RUNS)
    return 0


def _language(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.curate import train_languages

    for line in train_languages(arguments.labelled, arguments.out):
        print(line, flush=True)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.convert import convert

    out = convert(
        arguments.source, arguments.out, arguments.to, arguments.overrides, dtype=arguments.dtype, shards=arguments.shards,
        kv_heads=arguments.kv_heads, tokenizer=arguments.tokenizer, step=arguments.step,
    )  # fmt: skip
    print(f'written: {out}\ntry it: llama3 generate {out} --prompt "Hello"')
    return 0


def _tokenizer(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.tokenizer import compare_tokenizers, extend_tokenizer, train_tokenizer

    needs = {"train": ("out", "vocab_size"), "extend": ("out", "base", "add", "keep"), "compare": ("ranks",)}[arguments.what]
    may = {"compare": ("plot",)}.get(arguments.what, ())
    every = ("out", "vocab_size", "base", "add", "keep", "ranks", "plot")
    given = [name for name in every if getattr(arguments, name) is not None]
    wrong = [f"needs --{name}" for name in needs if name not in given]
    wrong += [f"has no --{name}" for name in given if name not in (*needs, *may)]
    if wrong:
        said = " and ".join(wrong).replace("_", "-")
        raise ValueError(f"llama3 tokenizer {arguments.what} {said}; see llama3 tokenizer --help")
    lines = {
        "train": lambda: train_tokenizer(arguments.out, arguments.texts, vocab_size=arguments.vocab_size),
        "extend": lambda: extend_tokenizer(
            arguments.out, arguments.texts, base=arguments.base, add=arguments.add, keep=arguments.keep
        ),
        "compare": lambda: compare_tokenizers(arguments.texts, arguments.ranks, plot=arguments.plot),
    }[arguments.what]
    for line in lines():
        print(line, flush=True)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from llama3_jax.config.load import load

    of_attention = [name for name in ("tune", "predict") if getattr(arguments, name)]
    if of_attention and arguments.what != "attention" or len(of_attention) > 1:
        raise ValueError("--tune and --predict are for llama3 bench attention, one of them at a time")
    kind, default, lines = BENCHES[arguments.what](arguments)
    config, overrides = arguments.config or default, arguments.overrides
    if re.match(r"[\w.]+=", config) and not os.path.exists(config):
        config, overrides = default, [config, *overrides]
    loaded = load(kind, config, overrides)
    if arguments.print_config:
        print(loaded.render(), end="")
        return 0
    for line in lines(loaded.value):
        print(line, flush=True)
    return 0


def _bench_train(_):
    from llama3_jax.commands.bench import report, run_bench
    from llama3_jax.commands.bench_run import BenchRun

    return BenchRun, "bench_dense", lambda run: report(run_bench(run))


def _bench_attention(arguments: argparse.Namespace):
    from llama3_jax.commands.bench_attention import AttentionBench, predict, report_attention, tune

    lines = tune if arguments.tune else partial(predict, chip=arguments.predict) if arguments.predict else report_attention
    return AttentionBench, "bench_attention", lines


def _bench_decode(_):
    from llama3_jax.commands.bench_decode import DecodeBench, report_decode

    return DecodeBench, "bench_decode", report_decode


def _bench_loss(_):
    from llama3_jax.commands.bench_loss import LossBench, report_loss

    return LossBench, "bench_loss", report_loss


def _bench_data(_):
    from llama3_jax.commands.bench_data import DataBench, report_data, run_data_bench

    return DataBench, "bench_data", lambda run: report_data(run_data_bench(run))


def _bench_tokenizer(_):
    from llama3_jax.commands.bench_tokenizer import TokenizerBench, report_tokenizer

    return TokenizerBench, "bench_tokenizer", report_tokenizer


def _bench_curate(_):
    from llama3_jax.commands.bench_curate import CurateBench, report_curate

    return CurateBench, "bench_curate", report_curate


def _bench_all(_):
    from llama3_jax.commands.bench_all import AllBench, report_all

    return AllBench, "bench_h100", report_all


BENCHES = {
    "train": _bench_train, "attention": _bench_attention, "decode": _bench_decode, "loss": _bench_loss, "data": _bench_data,
    "tokenizer": _bench_tokenizer, "curate": _bench_curate, "all": _bench_all,
}  # fmt: skip
"""What is measured -> (type of its file, the published one, what it prints); each imports what it needs and no more."""


def _doctor(arguments: argparse.Namespace) -> int:
    from llama3_jax.commands.doctor import doctor

    return doctor()

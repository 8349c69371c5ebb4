"""Evaluate a model on data sets of one's own: the second DeepSpeed entry point.

    deepspeed --num_accelerators 2 trainer/evaluate.py --model local-dir:jobs/x/export --data sketch=photos/sketch
    python trainer/evaluate.py --model ViT-B-32/openai --data captions.csv --output results

Prints a table, or JSON with `--json`, and writes `DIR/results.json` with `--output DIR`. Exit codes: 0, or 2 for a
model or data that cannot be used. The `deepspeed` launcher reports its own code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a script's own folder would shadow other modules


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--local_rank` is the launcher's."""
    parser = argparse.ArgumentParser(prog="deepspeed trainer/evaluate.py", description="Evaluate a CLIP-family model.")
    add = parser.add_argument
    add("--model", help="name of a model, or local-dir:FOLDER; by default the job's")
    add("--data", action="append", default=[], metavar="[NAME=]PATH", help="image folder, CSV or TSV, or a source as a"
        " YAML mapping ({path: table.csv, caption_column: title}); repeatable")  # fmt: skip
    add("--spec", type=Path, help="job spec: its model, validation and evaluation data, templates and EXIF rule")
    add("--templates", action="append", default=[], help="prompt template with one {}, or a published set; repeatable."
        " By default the model's or the job's own")  # fmt: skip
    add("--class-names", type=Path, help="JSON list, JSON mapping of folder to name, or text file with a name a line")
    add("--image-size", type=int, help="input size in pixels, if not the model's own")
    add("--batch-size", type=int, default=64, help="images a forward pass and process")
    add("--precision", choices=("fp32", "amp_bf16"), default="fp32")
    add("--exif", choices=("ignore", "apply"), help="what to do with the EXIF orientation; by default as in training")
    add("--on-bad-sample", choices=("fail", "skip"), default="fail", help="what to do with undecodable images")
    add("--num-threads", type=int, help="decoder threads a process")
    add("--output", type=Path, metavar="DIR", help="folder for results.json")
    add("--json", action="store_true", help="print JSON in place of tables")
    add("--per-class", action="store_true", help="also print each class's accuracy")
    add("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for option in ("batch_size", "image_size", "num_threads"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} is {value}; give at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Evaluate; 0 done, 2 bad arguments, model or data."""
    arguments = parse_arguments(argv)
    from trainer.evaluation.command import evaluate

    return evaluate(arguments)


if __name__ == "__main__":
    sys.exit(main())

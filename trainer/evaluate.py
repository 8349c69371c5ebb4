"""Evaluate a model on data sets of one's own: the second DeepSpeed entry point.

    deepspeed --num_accelerators 2 trainer/evaluate.py --model local-dir:jobs/x/export --data sketch=photos/sketch
    python trainer/evaluate.py --model ViT-B-32/openai --data captions.csv --output results
    python trainer/evaluate.py --model ViT-B-32/openai --domains pacs --in-distribution photo --report report

Prints a table, or JSON with `--json`; writes `results.json` with `--output`, and tables and figures with `--report`.
Exit codes: 0, or 2 for a model or data that cannot be used. The `deepspeed` launcher reports its own code.
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
    add("--domains", type=Path, metavar="ROOT", help="folder of domains, each a folder of class folders")
    add("--in-distribution", metavar="NAME", help="the data set that the others are shifted from: adds their table")
    add("--limit-per-class", type=int, help="use only the first N images of each class of image folders")
    add("--spec", type=Path, help="job spec: its model, validation and evaluation data, templates and EXIF rule")
    add("--templates", action="append", default=[], help="prompt template with one {}, or a published set; repeatable."
        " By default the model's or the job's own")  # fmt: skip
    add("--class-names", type=Path, help="JSON list, JSON mapping of folder to name, or text file with a name a line")
    _add_protocol(parser)
    add("--image-size", type=int, help="input size in pixels, if not the model's own")
    add("--batch-size", type=int, default=64, help="images a forward pass and process")
    add("--precision", choices=("fp32", "amp_bf16"), default="fp32")
    add("--exif", choices=("ignore", "apply"), help="what to do with the EXIF orientation; by default as in training")
    add("--on-bad-sample", choices=("fail", "skip"), default="fail", help="what to do with undecodable images")
    add("--num-threads", type=int, help="decoder threads a process")
    add("--output", type=Path, metavar="DIR", help="folder for results.json")
    add("--report", type=Path, metavar="DIR", help="folder for tables as JSON, CSV, Markdown and PNG, and for figures")
    add("--predictions", type=Path, metavar="FILE", help=".csv file for a row an image: label, prediction, confidence")
    add("--top-k", type=int, help="classes an image in --predictions. [default: 5]")
    add("--export-features", type=Path, metavar="FILE", help=".npz or .csv file for image features, not normalised; of"
        " several data sets a file each, FILE with -NAME")  # fmt: skip
    add("--export-text-embeddings", type=Path, metavar="FILE", help=".npz or .safetensors file for class embeddings")
    add("--json", action="store_true", help="print JSON in place of tables")
    add("--per-class", action="store_true", help="also print each class's accuracy")
    add("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    _refuse_small_numbers(parser, arguments)
    return arguments


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tasks", help="what to measure, separated by commas: zero_shot, retrieval, classification, linear_probe, knn."
        " By default what model and data allow of the first three")  # fmt: skip
    add("--train-data", metavar="PATH", help="labelled images that linear_probe and knn learn from; as --data, unnamed")
    add("--probe-c", type=float, help="linear probe: inverse strength of its L2 penalty. [default: 0.316]")
    add("--knn-k", type=int, help="nearest neighbours that vote. [default: 20]")
    add("--knn-temperature", type=float, help="a neighbour of cosine s votes with exp(s / this). [default: 0.07]")
    add("--classes", type=Path, help="zero-shot: file of all class names to predict among, the data's or more")
    add("--class-subset", help="measure only these classes: a file of names, names separated by commas, or `data` for"
        " those that the data set has")  # fmt: skip
    add("--predict-over", choices=("subset", "all"), help="with --class-subset: predict among the subset, or all"
        " classes. [default: subset]")  # fmt: skip
    add("--tta", choices=("none", "flip", "five_crop", "ten_crop"), default="none", help="test-time augmentation: mean"
        " probability over these views of an image")  # fmt: skip


def _refuse_small_numbers(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for option in ("batch_size", "image_size", "num_threads", "limit_per_class", "top_k", "knn_k"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} is {value}; give at least 1")
    for option in ("probe_c", "knn_temperature"):
        value = getattr(arguments, option)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{option.replace('_', '-')} is {value}; give a number above 0")


def main(argv: list[str] | None = None) -> int:
    """Evaluate; 0 done, 2 bad arguments, model or data."""
    arguments = parse_arguments(argv)
    from trainer.evaluation.command import evaluate

    return evaluate(arguments)


if __name__ == "__main__":
    sys.exit(main())

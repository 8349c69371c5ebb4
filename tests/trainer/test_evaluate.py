"""The evaluation command, as a person runs it."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from trainer import evaluate
from trainer.evaluation import command
from trainer.export import export_classifier, export_clip
from trainer.model_card import ModelCard
from trainer.models import clip_classifier, load_clip
from trainer.resolve import resolve
from trainer.spec import ModelSpec

SCRIPT = Path(evaluate.__file__)
CLASSES = {"n01": 4, "n02": 3}
ENVIRONMENT = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def save_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for number, (name, count) in enumerate(CLASSES.items()):
        for row in range(count):
            save_picture(folder / name / f"{row}.png", seed=10 * number + row)
    return folder


@pytest.fixture(scope="module")
def captions(pictures):
    table = pictures.parent / "captions.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "title"])
        for name in CLASSES:
            writer.writerow([f"pictures/{name}/0.png", f"the first of {name}"])
            writer.writerow([f"pictures/{name}/0.png", f"once more {name}"])
    return table


@pytest.fixture(scope="module")
def exports(tmp_path_factory, pictures):
    """A model and a classifier that were trained with names other than the folders'."""
    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    clip = load_clip(ModelSpec(name="attune-tiny-32"))
    source = {"path": str(pictures), "class_names": {"n01": "cat", "n02": "dog", "n99": "fox"}}
    spec = resolve(recipe="flyp", spec={"model": "attune-tiny-32", "data": {"train": source}})
    card = ModelCard(spec=spec, metrics={}, class_names=("cat", "dog"), templates=("art of a {}.",))
    export_clip(clip, folder / "clip", card=card)
    classifier = clip_classifier(clip, class_names=("dog", "cat"))
    torch.nn.init.normal_(classifier.module.head.weight)
    export_classifier(classifier, folder / "classifier", card=card)
    return folder


def run(*arguments, launcher=()):
    return subprocess.run(
        [sys.executable, *launcher, SCRIPT, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def settled(*arguments):
    return command.settle(evaluate.parse_arguments([str(argument) for argument in arguments]))


@pytest.mark.slow
def test_it_prints_a_table_and_writes_the_results(exports, pictures, captions, tmp_path):
    done = run(
        "--model", f"local-dir:{exports / 'clip'}", "--data", f"held={pictures}", "--data",
        f"{{path: {captions}, caption_column: title}}", "--output", tmp_path / "out", "--per-class",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    zero_shot, retrieval = document["results"]
    assert document["templates"] == ["art of a {}."]
    assert (zero_shot["dataset"], zero_shot["task"], zero_shot["num_samples"]) == ("held", "zero_shot", 7)
    assert [row["name"] for row in zero_shot["per_class"]] == ["cat", "dog"]
    assert (retrieval["dataset"], retrieval["task"], retrieval["num_samples"]) == ("captions", "retrieval", 2)
    for said in ("held", "mean_per_class", f"{100 * zero_shot['metrics']['top1']:.2f}", "mean_recall", "cat"):
        assert said in done.stdout


@pytest.mark.slow
def test_deepspeed_ranks_find_the_same(exports, pictures, tmp_path):
    arguments = ("--model", f"local-dir:{exports / 'classifier'}", "--data", pictures, "--batch-size", "2", "--output")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ("-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", port)
    together = run(*arguments, tmp_path / "two", launcher=launcher)
    assert together.returncode == 0, together.stderr
    assert run(*arguments, tmp_path / "one").returncode == 0
    one, two = ((tmp_path / name / "results.json").read_text() for name in ("one", "two"))
    assert one == two
    assert json.loads(one)["results"][0]["num_samples"] == 7
    assert together.stdout.count("mean_per_class") == 1


@pytest.mark.slow
def test_damaged_images_are_named_or_left_out(exports, pictures, tmp_path):
    for name in CLASSES:
        save_picture(tmp_path / "bad" / name / "good.png", seed=1)
    (tmp_path / "bad" / "n01" / "text.jpg").write_text("no picture")
    model = ("--model", f"local-dir:{exports / 'clip'}", "--data", tmp_path / "bad")
    refused = run(*model)
    assert refused.returncode == 2
    assert "n01/text.jpg" in refused.stderr
    assert "Traceback" not in refused.stderr
    skipped = run(*model, "--on-bad-sample", "skip", "--json")
    assert skipped.returncode == 0, skipped.stderr
    assert json.loads(skipped.stdout)["results"][0]["num_samples"] == 2
    assert "left out n01/text.jpg" in skipped.stderr


@pytest.fixture
def in_process(monkeypatch):
    """The command in this process, as one rank without a launcher."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(*arguments):
        return evaluate.main([str(argument) for argument in arguments])

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "DATA"], "name a model with --model"),
        (["--model", "attune-tiny-32"], "name data with --data"),
        (["--model", "attune-tiny-32", "--data", "/no/such/folder"], "folder '/no/such/folder' does not exist"),
        (["--model", "ViT-B-23", "--data", "DATA"], "Did you mean ViT-B-32"),
        (["--model", "local-dir:/no/such", "--data", "DATA"], "folder '/no/such' does not exist"),
        (["--model", "timm/resnet18", "--data", "DATA"], "has no text tower"),
        (["--model", "attune-tiny-32", "--data", "DATA", "--templates", "no braces"], "needs exactly one {}"),
        (["--model", "attune-tiny-32", "--data", "{path: DATA, colour: red}"], "colour: Extra inputs"),
        (["--model", "attune-tiny-32", "--data", "{path: DATA"], "is not valid YAML"),
        (["--model", "attune-tiny-32", "--data", "DATA", "--data", "DATA"], "two data sets are called 'pictures'"),
        (["--model", "attune-tiny-32", "--data", "DATA", "--class-names", "/no/file"], "cannot be read"),
        (["--spec", "/no/spec.yaml"], "cannot read /no/spec.yaml"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(in_process, pictures, capsys, arguments, says):
    assert in_process(*(argument.replace("DATA", str(pictures)) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err


def test_classes_that_the_classifier_does_not_know_are_named(in_process, exports, tmp_path, capsys):
    for name in ("dog", "wolf"):
        save_picture(tmp_path / "animals" / name / "0.png", seed=3)
    assert in_process("--model", f"local-dir:{exports / 'classifier'}", "--data", tmp_path / "animals") == 2
    assert "does not know: 'wolf'" in capsys.readouterr().err


def test_a_wrong_number_of_names_is_refused(in_process, pictures, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nthree\n")
    assert in_process("--model", "attune-tiny-32", "--data", pictures, "--class-names", names) == 2
    assert "lists 3 names, but data set 'pictures' has 2 classes: n01, n02" in capsys.readouterr().err


def test_bad_numbers_are_refused_at_once(capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.parse_arguments(["--batch-size", "0"])
    assert stopped.value.code == 2
    assert "--batch-size is 0; give at least 1" in capsys.readouterr().err


def test_class_names_come_from_the_file_then_the_export_then_the_folder(exports, pictures, tmp_path):
    data = ("--data", pictures)
    trained = settled("--model", f"local-dir:{exports / 'clip'}", *data)
    assert trained.data["pictures"].class_names == {"n01": "cat", "n02": "dog"}  # n99 is not in this folder
    assert settled("--model", "attune-tiny-32", *data).data["pictures"].class_names == {}
    mapping = tmp_path / "names.json"
    mapping.write_text('{"n01": "lion"}')
    given = settled("--model", f"local-dir:{exports / 'clip'}", *data, "--class-names", mapping)
    assert given.data["pictures"].class_names == {"n01": "lion", "n02": "dog"}
    mapping.write_text('["lion", "wolf"]')
    assert settled("--model", "attune-tiny-32", *data, "--class-names", mapping).class_names == ("lion", "wolf")


def test_a_job_says_what_the_command_line_leaves_open(tmp_path):
    spec = {
        "model": "ViT-B-32",
        "data": {
            "validation": "held-out",
            "evaluate": {"sketch": {"path": "table.tsv", "caption_column": "title"}},
            "templates": ["one {}", "two {}"],
            "exif": "apply",
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    request = settled("--spec", path)
    assert request.model.name == "ViT-B-32"
    assert list(request.data) == ["validation", "sketch"]
    assert request.data["sketch"].caption_column == "title"
    assert (request.templates, request.exif) == (("one {}", "two {}"), "apply")
    override = settled(
        "--spec", path, "--model", "RN50", "--data", "x=y", "--templates", "{}", "--exif", "ignore", "--image-size", 64
    )
    assert (override.model.name, override.model.image_size) == ("RN50", 64)
    assert list(override.data) == ["x"]
    assert (override.templates, override.exif) == (("{}",), "ignore")


def test_the_script_can_be_started_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--class-names" in done.stdout

"""The evaluation command, as a person runs it."""

import csv
import json
import os
import shutil
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
from trainer.errors import UnusableSpecError
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
    (alone,), (shared,) = (json.loads(text)["results"] for text in (one, two))
    assert alone["metrics"] == pytest.approx(shared["metrics"], abs=1e-5)
    assert alone["per_class"] == shared["per_class"]
    assert shared["num_samples"] == 7
    assert together.stdout.count("mean_per_class") == 1


@pytest.mark.slow
@pytest.mark.nightly
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


MODEL = ("--model", "attune-tiny-32", "--data", "DATA")


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
        (
            ["--model", "CLASSIFIER", "--data", "DATA", "--classes", "NAMES"],
            "--classes would change nothing: only class",
        ),
        ([*MODEL, "--tasks", "zero_shot,guess"], "--tasks names guess; there are zero_shot, classification"),
        ([*MODEL, "--tasks", "knn"], "--tasks knn learns from data; name them with --train-data"),
        ([*MODEL, "--tasks", "retrieval"], "--tasks retrieval cannot be measured: an image-text model and these data"),
        ([*MODEL, "--tasks", "knn", "--train-data", "DATA"], "k = 20 needs as many training images, got 7"),
        ([*MODEL, "--train-data", "DATA"], "--train-data says something only together with --tasks with"),
        ([*MODEL, "--probe-c", "1"], "--probe-c says something only together with --tasks with linear_probe"),
        ([*MODEL, "--predict-over", "all"], "--predict-over says something only together with --class-subset"),
        ([*MODEL, "--top-k", "3"], "--top-k says something only together with --predictions"),
        ([*MODEL, "--class-subset", "n01,n07"], "the class subset names 'n07'; the classes are 'n01', 'n02'"),
        ([*MODEL, "--classes", "/no/file.txt"], "--classes '/no/file.txt' cannot be read"),
        ([*MODEL, "--in-distribution", "photo"], "--in-distribution is 'photo'; name one of two or more data sets"),
        ([*MODEL, "--domains", "DATA"], "name data with --data or with --domains, not with both"),
        (["--model", "attune-tiny-32", "--domains", "/no/where"], "--domains '/no/where' must be a folder with"),
        ([*MODEL, "--predictions", "list.txt"], "--predictions 'list.txt' must end in .csv"),
        ([*MODEL, "--export-features", "f.pt"], "--export-features 'f.pt' must end in .npz or .csv"),
        (
            ["--model", "CLASSIFIER", "--data", "DATA", "--tasks", "zero_shot"],
            "a classifier and these data allow classification",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(in_process, exports, pictures, capsys, arguments, says):
    (exports / "names.txt").write_text("cat\ndog\n")
    places = {"CLASSIFIER": f"local-dir:{exports / 'classifier'}", "NAMES": str(exports / "names.txt")}
    assert in_process(*(places.get(word, word.replace("DATA", str(pictures))) for word in arguments)) == 2
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


def test_a_training_set_of_the_job_is_learned_from(tmp_path):
    path = tmp_path / "job.yaml"
    data = {"train": "images", "validation": "held-out"}
    path.write_text(yaml.safe_dump({"model": "ViT-B-32", "recipe": "flyp", "data": data}))
    request = settled("--spec", path, "--tasks", "linear-probe,knn", "--knn-k", 5)
    assert request.train.path == "images"
    assert request.protocol.tasks == ("linear_probe", "knn")
    assert (request.protocol.neighbours, request.protocol.probe_c) == (5, 0.316)


def test_each_folder_below_the_root_is_a_domain(tmp_path):
    for name in ("photo", "sketch"):
        (tmp_path / "domains" / name).mkdir(parents=True)
    (tmp_path / "domains" / "README.md").write_text("not a domain")
    request = settled(
        "--model", "attune-tiny-32", "--domains", tmp_path / "domains", "--in-distribution", "photo",
        "--limit-per-class", 2,
    )  # fmt: skip
    assert list(request.data) == ["photo", "sketch"]
    assert {source.limit_per_class for source in request.data.values()} == {2}
    assert request.in_distribution == "photo"


def test_class_lists_come_from_files_or_the_command_line(pictures, tmp_path):
    (tmp_path / "names.txt").write_text("n02\nn01\nother\n")
    base = ("--model", "attune-tiny-32", "--data", pictures)
    request = settled(*base, "--classes", tmp_path / "names.txt", "--class-subset", "n01, n02")
    assert request.protocol.classes == ("n02", "n01", "other")
    assert request.protocol.class_subset == ("n01", "n02")
    assert request.protocol.predict_over == "subset"
    filed = settled(*base, "--class-subset", tmp_path / "names.txt", "--predict-over", "all").protocol
    assert (filed.class_subset, filed.predict_over) == (("n02", "n01", "other"), "all")
    assert settled(*base, "--class-subset", "data").protocol.class_subset == "data"
    (tmp_path / "names.txt").write_text("n01\nn01\n")
    with pytest.raises(UnusableSpecError, match="names n01 more than once"):
        settled(*base, "--classes", tmp_path / "names.txt")


def test_a_report_holds_everything(in_process, exports, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "domains" / "photo")
    shutil.copytree(pictures, tmp_path / "domains" / "sketch")
    report = tmp_path / "report"
    code = in_process(
        "--model", f"local-dir:{exports / 'clip'}", "--domains", tmp_path / "domains", "--in-distribution", "photo",
        "--tasks", "zero_shot,linear_probe,knn", "--train-data", pictures, "--knn-k", 3, "--tta", "flip",
        "--report", report, "--predictions", report / "predictions.csv", "--top-k", 2,
        "--export-features", report / "features.csv", "--export-text-embeddings", report / "text.npz",
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    document = json.loads((report / "results.json").read_text())
    assert document["tta"] == "flip"
    assert document["knn"] == {"k": 3, "temperature": 0.07}
    assert [row["kind"] for row in document["shift"]["shift"]] == ["in distribution", "shifted", "mean", "gap"]
    assert document["shift"]["shift"][-1]["knn"] == 0.0  # both domains are the same pictures
    assert len(list(csv.reader((report / "predictions.csv").open()))) == 1 + 2 * 3 * 7
    expected = {"results", "shift", "shift-knn", "domains-knn", "reliability-photo-zero_shot", "confusion-sketch-knn"}
    assert expected <= {path.stem for path in report.glob("*.png")}
    assert {"features-photo.csv", "features-sketch.csv", "text.npz"} <= {path.name for path in report.iterdir()}
    assert "all shifted" in capsys.readouterr().out


def test_bad_numbers_are_refused_at_once(capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.parse_arguments(["--batch-size", "0"])
    assert stopped.value.code == 2
    assert "--batch-size is 0; give at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.parse_arguments(["--probe-c", "0"])
    assert "--probe-c is 0.0; give a number above 0" in capsys.readouterr().err


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

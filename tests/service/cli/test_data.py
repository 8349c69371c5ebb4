"""`attune data` as people run it."""

import json
import time

import psutil
import pytest

from service.cli.exits import FAILED, USAGE


def test_bad_data_give_exit_code_1_and_tables(attune, damaged_photos, tmp_path):
    sources = [f"{part}={damaged_photos / part}" for part in ("train", "validation")]
    ended = attune("data", "validate", *sources, "--output", tmp_path / "report")
    assert ended.returncode == FAILED, ended.stderr
    assert "5 of 39 images cannot be used." in ended.stdout
    assert "3 images of validation are also in train" in ended.stdout
    assert (tmp_path / "report/contact-sheet.png").is_file()
    again = attune("data", "validate", *sources, "--journal", tmp_path / "report/journal", "--json")
    assert again.returncode == FAILED
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert json.loads(again.stdout)["tables"] == report["tables"]


def test_good_data_give_exit_code_0(attune, two_class_folder):
    ended = attune("data", "validate", two_class_folder, "--no-near", "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["ok"]
    assert document["data_sets"]["images"]["class_counts"] == {"bright": 8, "dark": 8}


def test_a_spec_stands_for_its_data(attune, two_class_folder, tmp_path):
    (tmp_path / "job.yaml").write_text(
        f"model: attune-tiny-32\nobjective: {{name: class_prompts}}\ndata:\n  train: {two_class_folder}\n"
    )
    ended = attune("data", "inspect", "job.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["data_sets"]["train"]["num_samples"] == 16


def test_a_request_may_be_longer_than_an_argument(attune, two_class_folder, tmp_path):
    templates = [f"a photo of a {{}}, number {number:0100}" for number in range(2000)]
    job = {
        "model": "attune-tiny-32",
        "objective": {"name": "class_prompts"},
        "data": {"train": str(two_class_folder), "templates": templates},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    ended = attune("data", "inspect", "job.yaml", "--json")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect",), "name data"),
        (("inspect", "images", "--recipe", "flyp"), "not both"),
        (("validate", "images", "--exif", "maybe"), "--exif is 'maybe'"),
        (("convert", "images", "--to", "zip", "--output", "x"), "--to is 'zip'"),
        (("split", "images", "--output", "x", "--by", "size"), "--by is 'size'"),
        (("split", "images", "--output", "x", "--validation", "1.5"), "--validation is 1.5"),
        (("inspect", "no-such-folder"), "no-such-folder"),
        (("inspect", "{path: x, formt: csv}"), "formt"),
    ],
)
def test_what_cannot_be_done_is_refused(attune, arguments, words):
    ended = attune("data", *arguments)
    assert (ended.returncode, ended.stdout) == (USAGE, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ending_the_command_ends_its_child(start_attune, two_class_folder):
    process = start_attune("data", "validate", two_class_folder)
    deadline = time.monotonic() + 60
    children = []
    while not children and process.poll() is None and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        time.sleep(0.005)
    assert children
    process.terminate()
    process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive

"""The jobs behind a fine-tuning table: their data and their specs. The whole run is tested with the command."""

import csv
import json

import pytest

from trainer.spec import JobSpec
from trainer.transfer.command import main


@pytest.fixture
def prepare(digits, exports, tmp_path):
    """Prepare one model over both halves of the digits, and return the jobs by domain."""

    def run(code=0, **fields):
        request = {
            "root": str(digits), "output": str(tmp_path / "out"), "models": [f"m=local-dir:{exports[0]}"],
            "mode": "fine-tune", "step": "prepare", **fields,
        }  # fmt: skip
        assert main([json.dumps(request)]) == code
        if code:
            return None
        jobs = json.loads((tmp_path / "out" / "jobs.json").read_text())["jobs"]
        return {job["domain"]: JobSpec.model_validate_json(open(job["spec"]).read()) for job in jobs}

    return run


def rows(source):
    with open(source.path) as file:
        return [(row["image"], row["label"]) for row in csv.DictReader(file)]


def test_rows_of_a_domain(prepare, tmp_path):
    spec = prepare(held_out=0.25)["heldout"]
    test = rows(spec.data.train.model_copy(update={"path": str(tmp_path / "out/splits/heldout/test.csv")}))
    train, validation = rows(spec.data.train), rows(spec.data.validation)
    assert (len(train), len(validation), len(test)) == (40, 20, 20)
    everything = {image for part in (train, validation, test) for image, _ in part}
    assert len(everything) == 80
    assert all(image.startswith(f"heldout/{label}/") for image, label in train + validation + test)
    for part, count in ((train, 4), (validation, 2), (test, 2)):
        assert [label for _, label in part].count("seven") == count


def test_the_seed_draws_the_split(prepare, tmp_path):
    first = rows(prepare(seed=0)["train"].data.train)
    assert rows(prepare(seed=0)["train"].data.train) == first
    assert rows(prepare(seed=1)["train"].data.train) != first


def test_one_domain_is_left_out(prepare, digits, tmp_path):
    spec = prepare(leave_one_out=True)["heldout"]
    seen = rows(spec.data.train) + rows(spec.data.validation)
    assert len(seen) == 240
    assert all(image.startswith("train/") for image, _ in seen)
    test = rows(spec.data.train.model_copy(update={"path": str(tmp_path / "out/splits/heldout/test.csv")}))
    assert sorted(image for image, _ in test) == sorted(
        str(path.relative_to(digits)) for path in (digits / "heldout").rglob("*.jpg")
    )


def test_the_jobs_take_the_demos_settings_and_the_callers(prepare):
    spec = prepare(overrides=["schedule.epochs=3"], seed=5)["train"]
    assert (spec.objective.name, spec.objective.same_class, spec.model.eval_mode) == ("class_prompts", "positive", True)
    assert (spec.batch.global_size, spec.optim.lr, spec.optim.betas, spec.optim.eps) == (32, 5e-5, (0.9, 0.98), 1e-6)
    assert (spec.optim.weight_decay, spec.schedule.epochs, spec.schedule.kind) == (0.2, 3, "constant")
    assert (spec.data.templates, spec.seed) == (("a picture of a {}",), 5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"overrides": ["optim.lrr=1"]}, "optim.lrr: there is no such field. Did you mean lr"),
        ({"leave_one_out": True, "domains": ["train"]}, "--leave-one-out needs two domains or more"),
        ({"held_out": 0.49, "domains": ["heldout"]}, "class 'eight' has 8 images, too few to hold out 4"),
    ],
)
def test_what_is_wrong_is_said_before_any_job_starts(prepare, capsys, fields, says):
    prepare(code=2, **fields)
    assert says in capsys.readouterr().err


def test_a_folder_with_other_jobs_is_left_alone(prepare, tmp_path, capsys):
    prepare()
    job = tmp_path / "out" / "jobs" / "m--train"
    job.mkdir(parents=True)
    (job / "spec.json").write_text((tmp_path / "out" / "specs" / "m--train.json").read_text())
    prepare()
    prepare(code=2, overrides=["optim.lr=1e-3"])
    assert f"{job} holds a job with another spec; choose another --output" in capsys.readouterr().err

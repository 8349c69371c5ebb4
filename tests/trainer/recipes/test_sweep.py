"""Sweep files: those that come with the package against ITRA's tables, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.recipes.sweeps import Sweep, Trial, expand, find_sweep, shipped_sweeps
from trainer.resolve import SpecError

WEIGHT_DECAYS = {
    **{2.50: 74.07, 2.25: 73.94, 2.00: 73.87, 1.75: 73.84, 1.50: 73.94, 1.25: 73.94, 1.00: 74.05, 0.75: 73.87},
    **{0.50: 73.98, 0.10: 73.93, 0.05: 73.64, 0.01: 73.79},
}
BATCHES = {800: 74.89, 512: 74.85, 256: 73.98, 128: 72.14, 64: 69.24, 32: 65.04}
BATCH_RATES = {800: 3.125e-5, 512: 2e-5, 256: 1e-5, 128: 5e-6, 64: 2.5e-6, 32: 1.25e-6}
RATES = {5e-6: 72.91, 1e-5: 73.98, 2e-5: 73.97, 3e-5: 73.32, 5e-5: 72.46, 1e-4: 69.34}
TEXT = [67.23, 69.15, 70.27, 71.36, 71.79, 71.96, 72.00, 72.18, 71.98]
IMAGE = [71.33, 72.49, 72.23, 71.89, 71.82, 71.68]


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(name: str) -> str:
    with pytest.raises(SpecError) as caught:
        find_sweep(name)
    return str(caught.value)


def published(name: str) -> list[float | None]:
    return [trial.published for trial in find_sweep(name).all_trials()]


def test_sweeps_are_listed_by_name():
    assert list(shipped_sweeps()) == sorted(shipped_sweeps())


@pytest.mark.parametrize("name", sorted(shipped_sweeps()))
def test_every_shipped_sweep_expands_to_jobs(name: str) -> None:
    sweep = find_sweep(name)
    runs = expand(
        sweep, overrides=["data.train=a.csv", "data.validation=b.csv"] if "itra" in name else (), runnable=False
    )

    assert len({run.folder for run in runs}) == len(runs) == len(sweep.all_trials())
    assert all(run.spec.recipe == sweep.recipe for run in runs)
    assert sweep.source


@pytest.mark.parametrize(
    ("name", "field", "table"),
    [
        ("itra-learning-rate", "lr", RATES),
        ("itra-weight-decay", "weight_decay", WEIGHT_DECAYS),
    ],
)
def test_optimizer_sweeps_hold_itras_tables(name: str, field: str, table: dict[float, float]) -> None:
    runs = expand(find_sweep(name), runnable=False)

    assert {getattr(run.spec.optim, field): run.trial.published for run in runs} == table


def test_batch_sweep_scales_the_rate_as_itra_does() -> None:
    runs = expand(find_sweep("itra-batch-size"), runnable=False)
    sizes = {run.spec.batch.global_size: run for run in runs}

    assert {size: run.trial.published for size, run in sizes.items()} == BATCHES
    for size, run in sizes.items():
        assert run.spec.optim.lr * size / run.spec.optim.lr_batch == pytest.approx(BATCH_RATES[size], rel=1e-12)


def test_epochs_are_crossed_with_two_rates() -> None:
    runs = expand(find_sweep("itra-epochs"), runnable=False)
    table = {(run.spec.schedule.epochs, run.spec.optim.lr): run.trial.published for run in runs}

    assert [table[epochs, 1e-5] for epochs in (5, 10, 15, 20, 30)] == [72.66, 73.98, 74.43, 74.45, 73.96]
    assert [table[epochs, 2e-5] for epochs in (5, 10, 15, 20, 30)] == [72.86, 73.97, 74.28, 74.02, 74.03]


def test_freezing_sweeps_hold_itras_tables() -> None:
    assert published("itra-freezing-text") == TEXT
    assert published("itra-freezing-image") == IMAGE
    assert published("itra-freezing") == [62.34, 66.71, 71.98, 71.68, 75.04, 75.70, 76.02]


def test_text_blocks_open_from_the_top_down() -> None:
    runs = expand(find_sweep("itra-freezing-text"), runnable=False)
    opened = [len(run.spec.model.text.lock_patterns) for run in runs]

    assert all(run.spec.model.image.lock for run in runs)
    assert opened == [2, 3, 4, 6, 8, 10, 12, 14, 0]
    assert not runs[-1].spec.model.text.lock


def test_values_without_published_results_are_the_sources() -> None:
    decays = [run.spec.optim.layer_decay_text for run in expand(find_sweep("itra-layer-decay-text"), runnable=False)]
    averages = [run.spec.optim.ema_decay for run in expand(find_sweep("itra-ema"), runnable=False)]
    (line,) = expand(find_sweep("itra-wise-ft"), runnable=False)

    assert decays == [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6]
    assert averages == [0.99999, 0.9999, 0.9995, 0.999, 0.995, 0.99, 0.95, 0.9, 0.8]
    assert line.spec.export.wise_ft.alphas == tuple(n / 10 for n in range(11))


@pytest.mark.parametrize("name", ["flyp-few-shot-sst2", "flyp-few-shot-pcam"])
def test_few_shot_sweeps_keep_one_full_batch_an_epoch(name: str) -> None:
    runs = expand(find_sweep(name), repeats=50, runnable=False)

    assert len(runs) == 150
    assert {run.spec.data.shots for run in runs} == {4, 16, 32}
    assert all(run.spec.batch.global_size == 2 * run.spec.data.shots for run in runs)
    assert find_sweep(name).metric == "test/top1"  # the validation set chose the checkpoint


def test_repeats_count_seeds_up_from_the_specs_own() -> None:
    sweep = Sweep(summary="s", recipe="flyp", trials=(Trial(set={"optim.lr": 1e-4}),))
    runs = expand(sweep, overrides=["seed=7"], repeats=3, runnable=False)

    assert [run.spec.seed for run in runs] == [7, 8, 9]
    assert [run.folder.as_posix() for run in runs] == [f"trials/lr=0.0001/seed-{seed}" for seed in (7, 8, 9)]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    path = write(tmp_path, "summary: s\nrecipe: flyp\ngrid: {optim.lr: [1e-5, 2e-5], batch.global_size: [8, 16, 32]}\n")
    runs = expand(find_sweep(path), runnable=False)

    assert len(runs) == 6
    assert {(run.spec.optim.lr, run.spec.batch.global_size) for run in runs} == {
        (lr, size) for lr in (1e-5, 2e-5) for size in (8, 16, 32)
    }


def test_trials_win_over_the_sweeps_own_changes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "summary: s\nrecipe: flyp\nset: {optim.lr: 1, optim.weight_decay: 0.3}\ntrials: [{set: {optim.lr: 2}}]\n",
    )
    (run,) = expand(find_sweep(path), runnable=False)

    assert (run.spec.optim.lr, run.spec.optim.weight_decay) == (2, 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: flyp\nsummary: s\n", "give `trials` or `grid`; the file has neither"),
        ("recipe: flyp\nsummary: s\ngrid: {seed: [1]}\ntrials: [{set: {seed: 1}}]\n", "the file has both"),
        ("recipe: flypp\nsummary: s\ngrid: {seed: [1]}\n", "Did you mean flyp"),
        ("recipe: flyp\nsummary: s\ngird: {seed: [1]}\n", "Did you mean grid"),
        ("recipe: flyp\nsummary: s\ntrials: [{sett: {seed: 1}}]\n", "Did you mean set"),
        ("recipe: flyp\nsummary: s\ntrials: [{set: {seed: 1}}, {set: {seed: 1}}]\n", "2 trials are called 'seed=1'"),
        ("recipe: flyp\nsummary: s\nmetric: top1\ngrid: {seed: [1]}\n", "'top1' is not DATASET/METRIC"),
        ("recipe: flyp\nsummary: s\ntrials: [{set: {seed: 1}, name: a/b}]\n", "trials.0.name"),
        ("recipe: flyp\nsummary: s\ngrid: {seed: []}\n", "grid.seed"),
        ("- 1\n", "must hold a mapping"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    assert message in problems_of(write(tmp_path, text))


def test_unknown_sweeps_name_near_ones() -> None:
    assert "Did you mean itra-ema" in problems_of("itra-emma")
    assert "cannot read" in problems_of("nothing-here.yaml")


def test_names_cannot_lead_out_of_the_package() -> None:
    assert "there is no sweep" in problems_of("../sweeps/itra-ema")


def test_a_trials_bad_value_names_the_trial() -> None:
    sweep = Sweep(summary="s", recipe="flyp", trials=(Trial(set={"optim.lr": -1}),))

    with pytest.raises(SpecError, match=r"optim\.lr: .*trial lr=-1"):
        expand(sweep, runnable=False)


@pytest.mark.parametrize("override", ["optim.lr=1", "optim={lr: 1}"])
def test_overriding_what_the_sweep_varies_is_refused(override: str) -> None:
    sweep = Sweep(summary="s", recipe="flyp", trials=(Trial(set={"optim.lr": 1e-4}),))

    with pytest.raises(SpecError, match="the sweep varies optim.lr"):
        expand(sweep, overrides=[override], runnable=False)


def test_jobs_need_training_data_but_plans_do_not() -> None:
    with pytest.raises(SpecError, match="name the training data"):
        expand(find_sweep("itra-learning-rate"))

"""The sampler is a pure function: coverage, independence of how it is asked, and the quality of its draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipelines.sampler import Sampler, draw_shots, step_draws, steps_per_epoch

RECORDED_ROWS = [4, 1, 9, 6, 0, 2, 7, 3, 8, 5]
RECORDED_DRAWS = [0.5924335182542577, 0.16141959809518958, 0.6343000295866342]


@settings(max_examples=50, deadline=None)
@given(num_samples=st.integers(1, 60), data=st.data(), seed=st.integers(0, 2**63))
def test_each_sample_comes_once_an_epoch_up_to_the_dropped_batch(num_samples, data, seed):
    global_size = data.draw(st.integers(1, num_samples))
    sampler = Sampler(num_samples, seed=seed)
    steps = sampler.steps_per_epoch(global_size)
    rows = np.concatenate([sampler.rows(step, global_size=global_size) for step in range(steps)])
    assert len(rows) == num_samples - num_samples % global_size
    assert len(np.unique(rows)) == len(rows)


def test_order_changes_with_the_epoch_and_the_seed_but_not_with_the_order_of_calls():
    sampler = Sampler(40, seed=1)
    backwards = [sampler.rows(step, global_size=10) for step in reversed(range(8))][::-1]
    forwards = [Sampler(40, seed=1).rows(step, global_size=10) for step in range(8)]
    np.testing.assert_array_equal(backwards, forwards)
    assert not np.array_equal(forwards[:4], forwards[4:])
    assert not np.array_equal(forwards[0], Sampler(40, seed=2).rows(0, global_size=10))


def test_without_shuffling_rows_come_in_order_in_every_epoch():
    sampler = Sampler(7, seed=1, shuffle=False)
    assert [sampler.rows(step, global_size=3).tolist() for step in range(4)] == [[0, 1, 2], [3, 4, 5]] * 2


def test_the_stream_stays_what_it_was():
    """Recorded once: a change here would break resuming from older checkpoints."""
    assert Sampler(10, seed=7).rows(0, global_size=10).tolist() == RECORDED_ROWS
    np.testing.assert_allclose(Sampler(10, seed=7).draws(3, "crop", 3, global_size=2)[1], RECORDED_DRAWS, rtol=1e-12)


def test_draws_of_a_slice_are_a_slice_of_the_draws():
    sampler = Sampler(100, seed=3)
    whole = sampler.draws(5, "crop", 22, global_size=20)
    np.testing.assert_array_equal(whole[4:9], sampler.draws(5, "crop", 22, global_size=20, start=4, stop=9))


def test_draws_depend_on_the_position_not_on_the_batch_size():
    sampler = Sampler(96, seed=3)
    large = sampler.draws(0, "crop", 5, global_size=12)
    small = np.concatenate([sampler.draws(step, "crop", 5, global_size=4) for step in range(3)])
    np.testing.assert_array_equal(large, small)


def test_streams_and_epochs_are_independent_and_uniform():
    sampler = Sampler(4000, seed=0)
    draws = [sampler.draws(step, stream, 4, global_size=4000) for step in (0, 1) for stream in ("crop", "flip")]
    for drawn in draws:
        assert drawn.min() >= 0
        assert drawn.max() < 1
        np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.02)
        np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.005)
    correlation = np.corrcoef(np.concatenate(draws, axis=1).T) - np.eye(16)
    assert np.abs(correlation).max() < 0.07


@pytest.mark.parametrize("global_size", [0, 11])
def test_a_batch_that_cannot_be_filled_is_refused_in_numbers(global_size):
    with pytest.raises(ValueError, match=f"batch of {global_size} samples cannot be filled from 10"):
        Sampler(10, seed=0).steps_per_epoch(global_size)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="0 samples"):
        Sampler(0, seed=0)


def stream(sampler, *, global_size, num_steps):
    return np.concatenate([sampler.rows(step, global_size=global_size) for step in range(num_steps)])


@settings(max_examples=50, deadline=None)
@given(num_samples=st.integers(1, 40), data=st.data(), seed=st.integers(0, 2**63), shuffle=st.booleans())
def test_a_continued_stream_is_one_order_after_the_other(num_samples, data, seed, shuffle):
    global_size = data.draw(st.integers(1, num_samples))
    sampler = Sampler(num_samples, seed=seed, shuffle=shuffle, epoch_end="continue")
    whole = stream(sampler, global_size=global_size, num_steps=3 * num_samples)
    for start in range(0, 3 * num_samples, num_samples):
        assert sorted(whole[start : start + num_samples]) == list(range(num_samples))
    dropping = Sampler(num_samples, seed=seed, shuffle=shuffle)
    np.testing.assert_array_equal(whole[:global_size], dropping.rows(0, global_size=global_size))


def test_draws_of_a_continued_stream_belong_to_positions_not_to_batches():
    sampler = Sampler(10, seed=3, epoch_end="continue")
    large = sampler.draws(0, "crop", 5, global_size=8), sampler.draws(1, "crop", 5, global_size=8)
    small = [sampler.draws(step, "crop", 5, global_size=4) for step in range(4)]
    np.testing.assert_array_equal(np.concatenate(large), np.concatenate(small))
    np.testing.assert_array_equal(sampler.draws(1, "crop", 5, global_size=8, start=1, stop=6), large[1][1:6])
    assert len(np.unique(np.concatenate(large))) == 16 * 5


@pytest.mark.parametrize(("epoch_end", "steps"), [("drop", 2503 - 1), ("continue", 2503)])
def test_an_epoch_of_imagenet_in_batches_of_512(epoch_end, steps):
    """FLYP counts 2,503 steps an epoch (https://github.com/locuslab/FLYP)."""
    assert steps_per_epoch(1_281_167, global_size=512, epoch_end=epoch_end) == steps
    assert Sampler(1_281_167, seed=0, epoch_end=epoch_end).steps_per_epoch(512) == steps


def test_episodes_are_drawn_with_replacement_from_all_samples():
    sampler = Sampler(1000, seed=5, episode_size=400)
    assert sampler.steps_per_epoch(100) == 4
    episodes = stream(sampler, global_size=100, num_steps=8).reshape(2, 400)
    for rows in episodes:
        assert 300 < len(np.unique(rows)) < 400
        assert rows.max() >= 900
    assert not np.array_equal(*episodes)
    np.testing.assert_array_equal(
        sampler.rows(5, global_size=100), Sampler(1000, seed=5, episode_size=400).rows(5, global_size=100)
    )


def test_episodes_as_itra_draws_them_see_the_first_samples_only():
    sampler = Sampler(1000, seed=5, episode_size=40, episodes_from_first=True)
    rows = stream(sampler, global_size=40, num_steps=20)
    assert set(rows) == set(range(40))


def test_an_episode_may_be_longer_than_the_data():
    assert Sampler(3, seed=0, episode_size=10, episodes_from_first=True).rows(0, global_size=10).max() == 2


def test_shots_are_as_many_of_each_class_and_depend_on_the_seed():
    labels = np.array([0, 1, 0, 1, 0, 1, 1, -1, 0, 2, 2, 2])
    chosen = [draw_shots(labels, class_names=("a", "b", "c"), shots=2, seed=seed) for seed in range(20)]
    for rows in chosen:
        assert np.bincount(labels[rows]).tolist() == [2, 2, 2]
        assert list(rows) == sorted(set(rows))
    np.testing.assert_array_equal(chosen[3], draw_shots(labels, class_names=("a", "b", "c"), shots=2, seed=3))
    assert len({tuple(rows) for rows in chosen}) > 10
    assert set(np.concatenate(chosen)) == set(range(12)) - {7}


def test_too_many_shots_are_refused_with_class_and_count():
    labels = np.array([0, 0, 0, 1, 2, 2])
    with pytest.raises(ValueError, match="3 samples of each class are wanted, but 'dog' has 1, 'emu' has 2"):
        draw_shots(labels, class_names=("cat", "dog", "emu"), shots=3, seed=0)


def test_draws_of_a_step_depend_on_seed_step_and_stream():
    drawn = step_draws(3, "templates", 4, seed=1)
    np.testing.assert_array_equal(drawn, step_draws(3, "templates", 9, seed=1)[:4])
    others = [
        step_draws(4, "templates", 4, seed=1),
        step_draws(3, "x", 4, seed=1),
        step_draws(3, "templates", 4, seed=2),
    ]
    assert all(not np.array_equal(drawn, other) for other in others)
    assert 0.45 < step_draws(0, "templates", 4000, seed=0).mean() < 0.55

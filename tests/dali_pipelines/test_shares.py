"""Groups are drawn by their shares, each in whole passes of its own, as a pure function of seed and pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.shares import Groups, groups_of

RECORDED = [1, 4, 7, 2, 5, 6, 6, 7, 6, 7, 3, 0, 1, 3, 7, 6]


def sampler_of(numbers, shares, **options) -> Sampler:
    groups = Groups(np.asarray(numbers), np.asarray(shares, float))
    return Sampler(len(numbers), **{"seed": 3, "groups": groups, "epoch_end": "continue"} | options)


def stream(sampler: Sampler, *, num_passes: int) -> np.ndarray:
    length = sampler.pass_length
    return np.concatenate([sampler.rows(step, global_size=length) for step in range(num_passes)])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_groups=st.integers(1, 6), num_samples=st.integers(6, 40), seed=st.integers(0, 2**63))
def test_each_group_keeps_its_share_and_goes_through_its_samples_in_whole_passes(data, num_groups, num_samples, seed):
    extra = data.draw(st.lists(st.integers(-1, num_groups - 1), min_size=num_samples, max_size=num_samples))
    numbers = np.array([*range(num_groups), *extra])
    shares = np.array(data.draw(st.lists(st.floats(1e-6, 1e3), min_size=num_groups, max_size=num_groups)))
    sampler = sampler_of(numbers, shares, seed=seed)
    num_passes = 25
    drawn = stream(sampler, num_passes=num_passes)
    assert (numbers[drawn] >= 0).all()
    counts = np.bincount(numbers[drawn], minlength=num_groups)
    assert np.abs(counts - len(drawn) * shares / shares.sum()).max() < 6
    for group in range(num_groups):
        own, members = drawn[numbers[drawn] == group], np.flatnonzero(numbers == group)
        for start in range(0, len(own), len(members)):
            taken = own[start : start + len(members)]
            assert len(set(taken)) == len(taken)
            if len(taken) == len(members):
                assert sorted(taken) == members.tolist()


def test_equal_shares_stay_equal_however_many_passes():
    sampler = sampler_of([0] * 5 + [1] * 4 + [2] * 1, [1, 1, 1])
    numbers = np.array([0] * 5 + [1] * 4 + [2])
    counts = np.cumsum([np.bincount(numbers[sampler.rows(n, global_size=10)], minlength=3) for n in range(300)], axis=0)
    assert np.ptp(counts, axis=1).max() <= 6
    assert counts[-1].sum() == 3000


def test_a_share_of_less_than_a_sample_a_pass_comes_in_its_turn():
    drawn = stream(sampler_of([0] * 20 + [1], [1, 0.001]), num_passes=2000)
    assert np.count_nonzero(drawn == 20) == pytest.approx(42, abs=2)


def test_orders_are_new_in_each_pass_and_do_not_depend_on_where_one_begins():
    sampler = sampler_of([0] * 30 + [1] * 10, [1, 2])
    forwards = [sampler.rows(step, global_size=40) for step in range(6)]
    backwards = [sampler.rows(step, global_size=40) for step in reversed(range(6))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    np.testing.assert_array_equal(forwards[4], sampler_of([0] * 30 + [1] * 10, [1, 2]).rows(4, global_size=40))
    assert len({tuple(rows) for rows in forwards}) == 6
    assert not np.array_equal(forwards[0], sampler_of([0] * 30 + [1] * 10, [1, 2], seed=4).rows(0, global_size=40))
    whole = np.concatenate(forwards)
    np.testing.assert_array_equal(whole[24:32], sampler.rows(3, global_size=8))


def test_groups_are_spread_over_a_pass():
    numbers = np.repeat([0, 1], 2000)
    drawn = numbers[sampler_of(numbers, [3, 1]).rows(0, global_size=4000)]
    quarters = drawn.reshape(8, -1).mean(axis=1)
    np.testing.assert_allclose(quarters, 0.25, atol=0.06)


def test_an_episode_sets_the_length_of_a_pass():
    sampler = sampler_of([0] * 6 + [1] * 2, [1, 1], episode_size=20, epoch_end="drop")
    assert sampler.steps_per_epoch(10) == 2
    drawn = np.concatenate([sampler.rows(step, global_size=10) for step in range(2)])
    assert np.bincount(drawn, minlength=8).tolist()[6:] == [5, 5]
    assert sorted(np.bincount(drawn, minlength=8)[:6]) == [1, 1, 2, 2, 2, 2]


def test_the_stream_stays_what_it_was():
    """Recorded once: a change here would break resuming from older checkpoints."""
    drawn = stream(sampler_of([0] * 6 + [1] * 2 + [-1], [1, 1]), num_passes=2)
    assert drawn.tolist() == RECORDED


@pytest.mark.parametrize("options", [{"shuffle": False}, {"episode_size": 2, "episodes_from_first": True}])
def test_what_shares_cannot_be_combined_with_is_refused(options):
    with pytest.raises(ValueError, match="new orders, from all samples"):
        sampler_of([0, 1], [1, 1], **options)
    with pytest.raises(ValueError, match="2 samples are in groups, and 3"):
        Sampler(3, seed=0, groups=Groups(np.array([0, 1]), np.ones(2)))


@pytest.mark.parametrize(("numbers", "shares"), [([0, 0], [1, 1]), ([0, 1, 2], [1, 1]), ([0, 1], [1, 0])])
def test_a_group_without_samples_or_share_is_refused(numbers, shares):
    with pytest.raises(ValueError, match="each group needs samples and a share above 0"):
        Groups(np.array(numbers), np.array(shares, float))


def labelled(labels, *, name: str = "a", class_names=("cat", "dog", "emu")) -> Manifest:
    paths = [f"{name}{number}.jpg" for number in range(len(labels))]
    return Manifest.from_columns(
        "/data", paths=paths, sizes=[(4, 4)] * len(paths), labels=labels, class_names=class_names
    )


def by_group(groups: Groups) -> dict[int, list[int]]:
    return {g: np.flatnonzero(groups.numbers == g).tolist() for g in range(-1, len(groups.shares))}


def test_without_weights_and_balance_there_are_no_groups():
    assert groups_of(labelled([0, 1]), class_balanced=False) is None


def test_classes_are_balanced_and_samples_without_a_class_left_out():
    groups = groups_of(labelled([2, 0, -1, 0, 2, 2]), class_balanced=True)
    assert by_group(groups) == {-1: [2], 0: [1, 3], 1: [0, 4, 5]}
    assert groups.shares[0] == groups.shares[1]
    assert groups.num_drawn == 5
    assert Sampler(6, seed=0, groups=groups).pass_length == 5


def test_a_mixture_is_drawn_by_its_weights():
    both = Manifest.concatenate([labelled([0, -1]), labelled([1, 1, 1], name="b")], shares=[3.0, 1.0])
    groups = groups_of(both, class_balanced=False)
    assert by_group(groups) == {-1: [], 0: [0, 1], 1: [2, 3, 4]}
    assert groups.shares.tolist() == [3, 1]


def test_with_both_a_source_divides_its_share_among_its_classes():
    both = Manifest.concatenate([labelled([0, 1, -1, 2]), labelled([1, 1], name="b")], shares=[3.0, 1.0])
    groups = groups_of(both, class_balanced=True)
    assert by_group(groups) == {-1: [2], 0: [0], 1: [1], 2: [3], 3: [4, 5]}
    assert groups.shares.tolist() == [1, 1, 1, 1]


def test_shares_with_nothing_to_draw_are_refused_by_name():
    with pytest.raises(ValueError, match="there are no samples with a class"):
        groups_of(labelled([-1, -1], class_names=()), class_balanced=True)
    both = Manifest.concatenate([labelled([0]), labelled([-1], name="b")], shares=[3.0, 0.5])
    with pytest.raises(ValueError, match=r"sources\.1 of the mixture has the weight 0\.5 and no samples with a class"):
        groups_of(both, class_balanced=True)

"""Gathering by row: order, padding and mistakes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.features import encode_texts, gather_rows, inference, over_batches


@settings(deadline=None)
@given(st.permutations(range(9)), st.integers(0, 5))
def test_values_return_to_row_order_without_padding(rows, num_padding):
    padded = np.array([*rows, *[-1] * num_padding])
    values = torch.from_numpy(padded * 10).float()[:, None]
    found, found_rows = gather_rows(values, padded, world_size=1)
    assert found[:, 0].tolist() == [row * 10 for row in range(9)]
    assert found_rows.tolist() == list(range(9))


def test_rows_left_out_leave_a_gap_and_no_value():
    found, rows = gather_rows(torch.tensor([1.0, 2.0, 3.0]), np.array([4, -1, 0]), world_size=1)
    assert rows.tolist() == [0, 4]
    assert found.tolist() == [3.0, 1.0]


def test_a_row_that_came_twice_is_an_error():
    with pytest.raises(RuntimeError, match="evaluated twice"):
        gather_rows(torch.zeros(3), np.array([0, 1, 1]), world_size=1)


def test_batches_are_joined():
    class Batch:
        def __init__(self, rows):
            self.rows = np.array(rows)

    batches = [Batch([0, 2]), Batch([1, -1])]
    values, rows = over_batches(lambda batch: torch.from_numpy(batch.rows) + 100, batches, world_size=1)
    assert values.tolist() == [100, 101, 102]
    assert rows.tolist() == [0, 1, 2]


def test_inference_gives_flags_back_even_after_an_error():
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1).eval())
    seen = []

    def fail_inside():
        with inference(module):
            seen.extend([any(part.training for part in module.modules()), torch.is_grad_enabled()])
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert seen == [False, False]
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_no_text_is_an_error(clip):
    with pytest.raises(ValueError, match="no text"):
        encode_texts(clip.module, clip.tokenize, [], device=torch.device("cpu"), batch_size=2)

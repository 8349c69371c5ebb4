import pytest
import torch

from trainer.gradient_norm import measure_gradient_norm


def stepped_weights(gradient, *, max_norm):
    """A weight after one step of plain SGD with rate 1, and the norm that was taken."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    measure_gradient_norm(optimizer, max_norm=max_norm)
    weight.grad = torch.tensor(gradient)
    optimizer.step()
    return weight.detach(), optimizer._global_grad_norm


@pytest.mark.parametrize(("max_norm", "moved"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_clipped_and_their_norm_before_that_is_kept(max_norm, moved):
    weights, norm = stepped_weights([3.0, 4.0], max_norm=max_norm)
    assert norm.item() == pytest.approx(5.0)
    assert weights.norm().item() == pytest.approx(moved, rel=1e-5)


def test_parameters_without_a_gradient_are_left_out():
    used, unused = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([used, unused], lr=1.0)
    measure_gradient_norm(optimizer, max_norm=0.5)
    used.grad = torch.tensor([2.0])
    optimizer.step()
    assert optimizer._global_grad_norm.item() == pytest.approx(2.0)
    assert unused.item() == 1.0
    assert used.item() == pytest.approx(0.5, rel=1e-5)

import torch

from trainer.ema import track_average


def train(decay, steps, resume_at=None):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    track_average(optimizer, decay=decay)
    history = [layer.weight.detach().clone()]
    for step in range(steps):
        if step == resume_at:
            weights, state = layer.state_dict(), optimizer.state_dict()
            layer = torch.nn.Linear(3, 2)
            layer.load_state_dict(weights)
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
            track_average(optimizer, decay=decay)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        layer(torch.ones(1, 3) * (step + 1)).square().sum().backward()
        optimizer.step()
        history.append(layer.weight.detach().clone())
    return optimizer.state[layer.weight]["ema"], history


def test_the_average_starts_at_the_first_weights_and_follows_its_formula():
    average, history = train(0.9, 7)
    expected = history[0]
    for weight in history[1:]:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(average, expected)


def test_tracking_does_not_change_the_optimizer():
    _, history = train(0.5, 5)
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        layer(torch.ones(1, 3) * (step + 1)).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight, history[-1])


def test_a_resumed_average_is_bit_equal():
    assert torch.equal(train(0.9, 6)[0], train(0.9, 6, resume_at=3)[0])


def test_the_half_life_of_the_published_decay_is_3465_steps():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    track_average(optimizer, decay=0.9998)
    weight.grad = torch.ones_like(weight)
    optimizer.step()  # the weight is now 0 and stays there
    weight.grad = torch.zeros_like(weight)
    for _ in range(3465):
        optimizer.step()
    assert abs(optimizer.state[weight]["ema"].item() - 0.5) < 2e-4

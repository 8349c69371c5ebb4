import time

import pytest

from trainer import startup_times
from trainer.startup_times import phase_ends, seconds_by_phase


@pytest.fixture(autouse=True)
def _no_phase_yet(monkeypatch):
    monkeypatch.setattr(startup_times, "_ends", {})


def test_phases_follow_one_another_from_the_start_of_the_process():
    phase_ends("imports")
    time.sleep(0.05)
    phase_ends("model")
    taken = seconds_by_phase()
    assert list(taken) == ["imports", "model"]
    assert taken["imports"] > 0
    assert 0.05 <= taken["model"] < 5


def test_what_happens_again_does_not_count():
    phase_ends("imports")
    before = seconds_by_phase()
    time.sleep(0.01)
    phase_ends("imports")
    assert seconds_by_phase() == before

"""Queue, batches, deadlines, crashes and shutdown, with worker processes that are real and have no model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from service.errors import AttuneError, InvalidRequest, TooManyRequests, Unavailable
from service.inference.failures import DeadlineExceeded
from service.inference.images import EncodedImage

IMAGE = EncodedImage(b"image", 100)


async def ask(gateway, model, *texts):
    """(process, batch number, batch size) of each text's answer."""
    features = await gateway.embed(model, list(texts))
    return [tuple(map(int, row.split())) for row in features.rows]


async def until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.02)


def test_a_worker_starts_on_first_use_and_stays(run_gateway, record):
    async def scenario(gateway):
        assert gateway.pool.workers == {}
        (first,) = await ask(gateway, record(), "one")
        (second,) = await ask(gateway, record(), "two")
        assert gateway.pool.workers["a-model"].pid == first[0] == second[0]
        assert (first[1], second[1]) == (1, 2)

    run_gateway(scenario)


def test_concurrent_requests_share_batches(run_gateway, record):
    registry = CollectorRegistry()

    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        slow = asyncio.create_task(ask(gateway, record(), "sleep 0.3"))
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(ask(gateway, record(), f"text {i}") for i in range(20)))
        await slow
        return [answer for (answer,) in answers]

    answers = run_gateway(scenario, registry=registry, inference_max_batch_size=8)
    assert sorted({(number, size) for _, number, size in answers}) == [(3, 8), (4, 8), (5, 4)]
    assert registry.get_sample_value("attune_inference_batch_size_count") == 5
    assert registry.get_sample_value("attune_inference_batch_size_sum") == 22
    assert registry.get_sample_value("attune_inference_queue_seconds_count") == 22


def test_a_batch_waits_for_company_only_as_long_as_it_may(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        first = asyncio.create_task(ask(gateway, record(), "first"))
        await asyncio.sleep(0.1)
        (second,), (first_answer,) = await ask(gateway, record(), "second"), await first
        began = time.monotonic()
        (alone,) = await ask(gateway, record(), "alone")
        return first_answer, second, alone, time.monotonic() - began

    first, second, alone, waited_s = run_gateway(scenario, inference_batch_timeout_ms=400)
    assert first[1:] == second[1:] == (2, 2)
    assert alone[2] == 1
    assert 0.35 < waited_s < 2


def test_a_large_request_is_answered_in_order_over_several_batches(run_gateway, record):
    async def scenario(gateway):
        return await ask(gateway, record(), *(f"text {i}" for i in range(21)))

    answers = run_gateway(scenario, inference_max_batch_size=8)
    assert [answer[1] for answer in answers] == [1] * 8 + [2] * 8 + [3] * 5


def test_images_and_texts_of_one_request_keep_their_places(run_gateway, record):
    async def scenario(gateway):
        return await gateway.embed(record(), ["text", IMAGE, "text", IMAGE, IMAGE])

    features = run_gateway(scenario, inference_max_batch_size=3)
    batch_of = [int(row.split()[1]) for row in features.rows]
    assert batch_of == [2, 1, 2, 1, 1]


def test_a_batch_holds_no_more_pixels_than_a_decoder_can_bear(run_gateway, record):
    image = EncodedImage(b"image", 50_000_000)

    async def scenario(gateway):
        return await asyncio.gather(*(gateway.embed(record(), [image] * number) for number in (5, 1)))

    five, one = run_gateway(scenario)
    assert [int(row.split()[1]) for row in five.rows + one.rows] == [1, 1, 2, 2, 3, 3]


def test_a_full_queue_refuses_with_a_measured_time_to_retry(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "sleep 0.5")
        tasks = [asyncio.create_task(ask(gateway, record(), "sleep 0.5"))]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(ask(gateway, record(), "sleep 0.5")) for _ in range(8)]
        await asyncio.sleep(0.1)
        with pytest.raises(TooManyRequests) as refused:
            await ask(gateway, record(), "one too many")
        await asyncio.gather(*tasks)
        await ask(gateway, record(), "there is room again")
        return refused.value

    error = run_gateway(scenario, inference_queue_limit=8, inference_max_batch_size=1)
    assert error.status == 429
    assert "at most 8 may wait" in error.message
    assert error.retry_after_s == pytest.approx(8 * 0.5, rel=0.2)
    assert error.headers() == {"Retry-After": str(int(error.retry_after_s) + 1)}


def test_a_request_past_its_deadline_is_refused_and_never_reaches_the_model(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        slow = asyncio.create_task(ask(gateway, record(), "sleep 1.5"))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for task in [asyncio.create_task(ask(gateway, record(), "late")) for _ in range(3)]:
            with pytest.raises(DeadlineExceeded, match="within 1 s"):
                await task
        waited_s = time.monotonic() - began
        with pytest.raises(DeadlineExceeded):
            await slow
        (answer,) = await ask(gateway, record(), "in time")
        return waited_s, answer

    waited_s, (_, number, size) = run_gateway(scenario, inference_request_timeout_s=1.0)
    assert 0.9 < waited_s < 1.4
    assert (number, size) == (3, 1)


def test_a_request_to_a_model_that_is_still_loading_says_so(run_gateway, record):
    async def scenario(gateway):
        with pytest.raises(Unavailable, match="still loading") as refused:
            await ask(gateway, record("endless"), "hello")
        return refused.value

    assert run_gateway(scenario, inference_request_timeout_s=0.5).status == 503


def test_a_model_that_cannot_be_loaded_says_why(run_gateway, record):
    async def scenario(gateway):
        with pytest.raises(Unavailable, match="cannot be loaded: this export is broken$"):
            await ask(gateway, record("broken"), "hello")
        assert gateway.pool.workers == {}

    run_gateway(scenario)


def test_a_model_that_never_finishes_loading_is_given_up(run_gateway, record):
    async def scenario(gateway):
        with pytest.raises(Unavailable, match="not ready within 1 s"):
            await ask(gateway, record("endless"), "hello")

    run_gateway(scenario, inference_load_timeout_s=1)


def test_after_kill_9_the_next_request_is_answered(run_gateway, record):
    async def scenario(gateway):
        ((first, *_),) = await ask(gateway, record(), "one")
        os.kill(first, signal.SIGKILL)
        ((second, *_),) = await ask(gateway, record(), "two")
        return first, second

    first, second = run_gateway(scenario)
    assert first != second


def test_a_request_in_flight_survives_kill_9_of_its_worker(run_gateway, record):
    registry = CollectorRegistry()

    async def scenario(gateway):
        ((first, *_),) = await ask(gateway, record(), "one")
        waiting = asyncio.create_task(ask(gateway, record(), "sleep 0.5"))
        await asyncio.sleep(0.2)
        os.kill(first, signal.SIGKILL)
        ((second, *_),) = await waiting
        return first, second

    first, second = run_gateway(scenario, registry=registry)
    assert first != second
    assert registry.get_sample_value("attune_inference_worker_deaths_total") == 1


def test_a_request_that_kills_workers_fails_alone(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        asked = [ask(gateway, record(), text) for text in ("sound", "crash", "sound too")]
        return await asyncio.gather(*asked, return_exceptions=True)

    sound, crashed, also_sound = run_gateway(scenario, inference_batch_timeout_ms=100)
    assert isinstance(crashed, Unavailable)
    assert crashed.code == "worker_died"
    assert "signal 9" in crashed.message
    assert sound[0][2] == also_sound[0][2] == 1, "after the crash each was asked alone"


def test_a_request_whose_first_try_crashed_gets_a_second(run_gateway, record, tmp_path):
    async def scenario(gateway):
        return await ask(gateway, record(), f"crash once {tmp_path / 'crashed'}")

    assert len(run_gateway(scenario)) == 1


def test_a_batch_that_fails_is_asked_again_one_by_one(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        asked = [ask(gateway, record(), text) for text in ("sound", "fail", "exhaust")]
        return await asyncio.gather(*asked, return_exceptions=True)

    sound, failed, exhausted = run_gateway(scenario, inference_batch_timeout_ms=100)
    assert sound[0][2] == 1
    assert (type(failed), failed.status, failed.code) == (AttuneError, 500, "inference_failed")
    assert (type(exhausted), exhausted.code) == (Unavailable, "out_of_memory")


def test_a_worker_that_does_not_answer_is_killed(run_gateway, record, monkeypatch):
    monkeypatch.setattr("service.inference.lane._HANG_GRACE_S", 0.3)

    async def scenario(gateway):
        ((hung, *_),) = await ask(gateway, record(), "one")
        with pytest.raises(DeadlineExceeded):
            await ask(gateway, record(), "hang")
        await until(lambda: not psutil.pid_exists(hung))
        ((other, *_),) = await ask(gateway, record(), "two")
        return hung, other

    hung, other = run_gateway(scenario, inference_request_timeout_s=1.0)
    assert hung != other


def test_a_worker_that_does_not_even_read_is_killed(run_gateway, record, monkeypatch):
    monkeypatch.setattr("service.inference.lane._HANG_GRACE_S", 0.3)

    async def scenario(gateway):
        ((stopped, *_),) = await ask(gateway, record(), "one")
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            await gateway.embed(record(), [EncodedImage(b"i" * 5_000_000, 100)])
        await until(lambda: not psutil.pid_exists(stopped))
        return await ask(gateway, record(), "two")

    assert len(run_gateway(scenario, inference_request_timeout_s=2.0)) == 1


def test_a_worker_that_cannot_be_started_is_reported(run_gateway, record):
    async def scenario(gateway):
        with pytest.raises(Unavailable, match="No such file"):
            await ask(gateway, record(), "hello")

    run_gateway(scenario, command=["/nowhere/python"])


def test_the_model_used_longest_ago_makes_room(run_gateway, record):
    async def scenario(gateway):
        models = [record(id=name) for name in "abc"]
        for model in (models[0], models[1], models[0], models[2]):
            await ask(gateway, model, "hello")
        return set(gateway.pool.workers)

    assert run_gateway(scenario, inference_max_models=2) == {"a", "c"}


def test_more_models_than_fit_take_turns(run_gateway, record):
    async def scenario(gateway):
        models = [record(id=name) for name in "abc"]
        answers = await asyncio.gather(*(ask(gateway, model, "sleep 0.1") for model in models))
        return answers, len(gateway.pool.workers)

    answers, num_loaded = run_gateway(scenario, inference_max_models=1)
    assert len({process for ((process, _, _),) in answers}) == 3
    assert num_loaded == 1


def test_an_idle_model_is_unloaded_and_comes_back(run_gateway, record):
    async def scenario(gateway):
        ((first, *_),) = await ask(gateway, record(), "one")
        await until(lambda: not gateway.pool.workers and not psutil.pid_exists(first))
        ((second, *_),) = await ask(gateway, record(), "two")
        return first, second

    first, second = run_gateway(scenario, inference_idle_unload_s=0.3)
    assert first != second


def test_a_model_registered_again_elsewhere_is_loaded_from_there(run_gateway, record):
    async def scenario(gateway):
        ((first, *_),) = await ask(gateway, record("here"), "one")
        ((second, *_),) = await ask(gateway, record("there"), "two")
        return first, second, len(gateway.pool.workers)

    first, second, num_loaded = run_gateway(scenario)
    assert first != second
    assert num_loaded == 1


def test_closing_ends_busy_and_loading_workers_and_refuses_who_waits(run_gateway, record):
    async def scenario(gateway):
        await ask(gateway, record(), "warm up")
        busy = asyncio.create_task(ask(gateway, record(), "sleep 60"))
        loading = asyncio.create_task(ask(gateway, record("endless", id="b"), "hello"))
        await until(lambda: len(gateway.pool.workers) == 2 and all(w.pid for w in gateway.pool.workers.values()))
        await asyncio.sleep(0.1)
        processes = [worker.pid for worker in gateway.pool.workers.values()]
        began = time.monotonic()
        await gateway.close()
        closing_s = time.monotonic() - began
        return processes, closing_s, await asyncio.gather(busy, loading, return_exceptions=True)

    processes, closing_s, errors = run_gateway(scenario)
    assert [error.code for error in errors] == ["shutting_down"] * 2
    assert not any(psutil.pid_exists(process) for process in processes)
    assert closing_s < 5


@pytest.mark.slow
@pytest.mark.parametrize("state", ["idle", "busy", "loading"])
def test_no_worker_outlives_its_parent_killed_by_kill_9(state, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("short_lived_parent.py")), str(tmp_path), state],
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = int(parent.stdout.readline())
    assert psutil.pid_exists(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"the {state} worker lives on"
        time.sleep(0.05)


def test_the_worker_writes_to_a_log_of_its_own(run_gateway, record, make_settings):
    async def scenario(gateway):
        with pytest.raises(AttuneError):
            await ask(gateway, record(id="ft:a/b:c"), "fail")

    run_gateway(scenario)
    log = make_settings().data_dir / "inference" / "ft-a-b-c.log"
    assert "RuntimeError: as asked" in log.read_text()


def test_zero_shot_on_a_classifier_points_to_classify(run_gateway, record):
    async def scenario(gateway):
        model = record(task="classifier")
        with pytest.raises(InvalidRequest, match="use /v1/classify"):
            await gateway.zero_shot(model, [IMAGE], class_names=["a", "b"])
        with pytest.raises(InvalidRequest, match="image-text model"):
            await gateway.embed(model, ["text"])

    run_gateway(scenario)


def test_classify_needs_classes_that_the_model_was_trained_on(run_gateway, record):
    async def scenario(gateway):
        with pytest.raises(InvalidRequest, match="/v1/zero-shot") as refused:
            await gateway.classify(record(class_names=None), [IMAGE])
        return refused.value

    assert run_gateway(scenario).status == 400

import json
import multiprocessing
import os
import signal
import threading
import time

import openai
import pytest
from sqlalchemy.dialects import postgresql

from service.store.announcements import PING, announce, payload_of
from service.store.records import JobStatus, ProjectRecord, TransitionRefused
from service.store.store import Store
from service.webhooks.addresses import Addresses
from service.webhooks.deliverer import Deliverer, DeliveryRules

HERE = Addresses.of(["127.0.0.0/8"])
QUICK = DeliveryRules(timeout_s=1.0, first_retry_s=0.05, max_retry_s=0.2, max_tries=5)


@pytest.fixture
def deliver(store):
    started = []

    def start(rules=QUICK, owner="one"):
        deliverer = Deliverer(store, owner=owner, addresses=HERE, rules=rules, poll_interval_s=0.02, lease_s=5.0)
        deliverer.start()
        started.append(deliverer)
        return deliverer

    yield start
    for deliverer in started:
        deliverer.stop()


def wait(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.01)


def statuses(store, webhook):
    return [delivery.status for delivery in store.deliveries.list(webhook.id)[0]]


def test_a_message_for_which_no_thread_could_be_started_is_sent_later(
    store, register, receiver, cancelled_job, monkeypatch
):
    webhook = register(receiver.url)
    cancelled_job()
    deliverer = Deliverer(store, owner="one", addresses=HERE, rules=QUICK)

    def no_room(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_room)
        for _ in range(8):
            assert not deliverer.chore.do()
    assert deliverer.chore.do()
    wait(lambda: statuses(store, webhook) == ["delivered"])
    deliverer.stop()


def test_a_webhook_is_held_while_it_is_told_of_something(store, monkeypatch):
    """On PostgreSQL one that is deleted meanwhile would take the change that is told of down with it."""
    asked = []
    with store.database.write() as connection:
        execute = connection.execute

        def noting(statement, *given):
            asked.append(str(statement.compile(dialect=postgresql.dialect())))
            return execute(statement, *given)

        monkeypatch.setattr(connection, "execute", noting)
        announce(connection, "default", PING, {})
    assert "FOR KEY SHARE" in asked[0]


def test_a_jobs_end_is_told_signed_to_those_who_listen(
    store, register, receiver, start_receiver, cancelled_job, deliver
):
    deaf = start_receiver()
    webhook = register(receiver.url, event_types=["fine_tuning.job.cancelled"])
    register(deaf.url, event_types=["fine_tuning.job.succeeded"])
    job = cancelled_job()
    deliver()
    wait(lambda: statuses(store, webhook) == ["delivered"])
    (request,) = receiver.received
    client = openai.OpenAI(api_key="none", webhook_secret=webhook.secrets[0]["secret"])
    event = client.webhooks.unwrap(request.body.decode(), request.headers)
    assert event.type == "fine_tuning.job.cancelled"
    assert event.data.id == job.id
    assert deaf.received == []


def test_a_change_that_is_refused_tells_nobody(store, register, receiver, cancelled_job):
    webhook = register(receiver.url)
    job = cancelled_job()
    with pytest.raises(TransitionRefused):
        store.jobs.transition(job.id, JobStatus.QUEUED, expected=[JobStatus.VALIDATING_FILES])
    assert [d.event_type for d in store.deliveries.list(webhook.id)[0]] == ["fine_tuning.job.cancelled"]


def test_other_projects_are_told_nothing(store, register, receiver, cancelled_job):
    store.projects.create(ProjectRecord(id="other", name="other", created_at=0.0))
    webhook = register(receiver.url, project_id="other")
    cancelled_job()
    assert store.deliveries.list(webhook.id) == ([], False)


def test_a_failure_is_tried_again_under_the_same_id_with_growing_pauses(
    store, register, receiver, cancelled_job, deliver
):
    webhook = register(receiver.url)
    receiver.statuses = [500, 502, 503]
    cancelled_job()
    deliver()
    wait(lambda: statuses(store, webhook) == ["delivered"])
    assert len(set(receiver.ids())) == 1
    assert len(receiver.received) == 4
    first, second = (b.at - a.at for a, b in zip(receiver.received[:2], receiver.received[1:3], strict=True))
    assert first >= 0.75 * 0.05
    assert second > first
    assert store.webhooks.get(webhook.id).failing_since is None


def test_retry_after_is_honoured(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    receiver.statuses, receiver.headers = [429], {"Retry-After": "1"}
    cancelled_job()
    deliver()
    wait(lambda: statuses(store, webhook) == ["delivered"])
    assert receiver.received[1].at - receiver.received[0].at >= 1.0


def test_after_its_last_try_a_message_has_failed_and_can_be_sent_again(
    store, register, receiver, cancelled_job, deliver
):
    webhook = register(receiver.url)
    receiver.statuses = [500] * 5
    cancelled_job()
    deliver()
    wait(lambda: statuses(store, webhook) == ["failed"])
    assert len(receiver.received) == 5
    assert store.webhooks.get(webhook.id).failing_since is not None
    assert store.deliveries.replay(webhook.id, since=0, until=time.time(), only_failed=True) == 1
    wait(lambda: statuses(store, webhook) == ["delivered"])
    assert len(set(receiver.ids())) == 1


def test_410_disables_the_webhook_and_ends_what_waits_for_it(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    receiver.statuses = [410]
    cancelled_job()
    deliver()
    wait(lambda: store.webhooks.get(webhook.id).disabled_at is not None)
    assert "410" in store.webhooks.get(webhook.id).disabled_reason
    assert statuses(store, webhook) == ["failed"]
    cancelled_job()
    assert statuses(store, webhook) == ["failed"], "a disabled webhook is told nothing new"


def test_a_webhook_that_fails_for_too_long_is_disabled(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    receiver.statuses = [500] * 100
    cancelled_job()
    deliver(DeliveryRules(first_retry_s=0.05, max_retry_s=0.05, max_tries=100, disable_after_s=0.4))
    wait(lambda: store.webhooks.get(webhook.id).disabled_at is not None)
    assert "answered 500" in store.webhooks.get(webhook.id).disabled_reason


def test_a_receiver_that_hangs_keeps_nobody_waiting(store, register, receiver, start_receiver, cancelled_job, deliver):
    slow, quick = register(start_receiver().url), register(receiver.url)
    hanging = start_receiver()
    hanging.wait_s = 3.0
    store.webhooks.update(slow.id, url=hanging.url)
    for _ in range(40):
        cancelled_job()
    begun = time.monotonic()
    deliver(DeliveryRules(timeout_s=2.0))
    wait(lambda: statuses(store, quick).count("delivered") == 20)
    wait(lambda: store.deliveries.list(quick.id, status="waiting")[0] == [])
    assert time.monotonic() - begun < 2.0
    assert len(hanging.received) <= 4


def test_a_late_answer_is_tried_again_and_then_counts_once(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    receiver.wait_s = 1.0
    cancelled_job()
    deliver(DeliveryRules(timeout_s=0.3, first_retry_s=0.1, max_tries=20))
    wait(lambda: len(receiver.received) >= 2)
    receiver.wait_s = 0.0
    wait(lambda: statuses(store, webhook) == ["delivered"])
    assert len(set(receiver.ids())) == 1


def test_a_ping_is_tried_once(store, register, receiver, deliver):
    webhook = register(receiver.url, event_types=["fine_tuning.job.failed"])
    receiver.statuses = [500]
    store.deliveries.add(webhook.id, PING, payload_of(PING, {"id": webhook.id}))
    deliver()
    wait(lambda: statuses(store, webhook) == ["failed"])
    assert json.loads(receiver.received[0].body)["type"] == "webhook.ping"


def test_two_replicas_send_each_message_once(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    for _ in range(15):
        cancelled_job()
    deliver(owner="one")
    deliver(owner="two")
    wait(lambda: statuses(store, webhook) == ["delivered"] * 15)
    assert len(receiver.received) == len(set(receiver.ids())) == 15


def _deliver_for_ever(url):
    store = Store(url)
    Deliverer(store, owner="doomed", addresses=HERE, rules=QUICK, poll_interval_s=0.02, lease_s=0.5).start()
    time.sleep(60)


def test_what_a_killed_service_was_sending_its_successor_sends_again(store, register, receiver, cancelled_job, deliver):
    webhook = register(receiver.url)
    receiver.wait_s = 0.8
    cancelled_job()
    url = store.database.engine.url.render_as_string(hide_password=False)
    doomed = multiprocessing.get_context("spawn").Process(target=_deliver_for_ever, args=(url,))
    doomed.start()
    wait(lambda: len(receiver.received) == 1)
    os.kill(doomed.pid, signal.SIGKILL)  # the receiver has it, and nobody has noted that
    doomed.join()
    assert statuses(store, webhook) == ["waiting"]
    receiver.wait_s = 0.0
    deliver(owner="successor")
    wait(lambda: statuses(store, webhook) == ["delivered"])
    assert len(receiver.received) == 2
    assert len(set(receiver.ids())) == 1

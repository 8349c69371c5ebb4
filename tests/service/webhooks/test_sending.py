import email.utils
import time

import pytest

from service.webhooks.addresses import Addresses
from service.webhooks.sending import post

HERE = Addresses.of(["127.0.0.0/8"])


def send(url, *, timeout_s=5.0, addresses=HERE):
    return post(url, b"{}", headers={"webhook-id": "msg_1"}, addresses=addresses, timeout_s=timeout_s)


def test_a_2xx_answer_counts_as_delivered(receiver):
    receiver.statuses = [204]
    answer = send(receiver.url)
    assert answer.succeeded
    assert answer.status == 204
    (request,) = receiver.received
    assert request.body == b"{}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "msg_1"


def test_a_redirect_is_not_followed(receiver, start_receiver):
    elsewhere = start_receiver()
    receiver.statuses, receiver.headers = [302], {"Location": elsewhere.url}
    answer = send(receiver.url)
    assert (answer.succeeded, answer.status) == (False, 302)
    assert "redirects are not followed" in answer.error
    assert elsewhere.received == []


def test_a_receiver_that_hangs_is_given_up(receiver):
    receiver.wait_s = 2.0
    begun = time.monotonic()
    answer = send(receiver.url, timeout_s=0.3)
    assert answer.status is None
    assert "0.3 s" in answer.error
    assert time.monotonic() - begun < 1.5


def test_a_receiver_that_drips_is_given_up_as_well(dripping_url):
    begun = time.monotonic()
    answer = send(dripping_url, timeout_s=0.4)
    assert not answer.succeeded
    assert time.monotonic() - begun < 1.5


def test_a_long_answer_is_not_read_to_its_end(receiver):
    receiver.body = b"x" * 50_000_000
    begun = time.monotonic()
    assert send(receiver.url).succeeded
    assert time.monotonic() - begun < 2.0


def test_retry_after_is_read_as_seconds_or_date(receiver):
    receiver.statuses, receiver.headers = [503], {"Retry-After": "120"}
    assert send(receiver.url).retry_after_s == 120
    receiver.statuses, receiver.headers = [503], {"Retry-After": email.utils.formatdate(time.time() + 60)}
    assert send(receiver.url).retry_after_s == pytest.approx(60, abs=3)
    receiver.statuses, receiver.headers = [503], {"Retry-After": "soon"}
    assert send(receiver.url).retry_after_s is None


def test_nobody_there_is_an_error_and_no_exception(receiver):
    assert "ConnectError" in send("http://127.0.0.1:9/").error
    assert send("https://name.invalid/").error


def test_a_private_address_is_refused_before_anything_is_sent(receiver):
    answer = send(receiver.url.replace("127.0.0.1", "localhost"), addresses=Addresses())
    assert "no public address" in answer.error
    assert receiver.received == []

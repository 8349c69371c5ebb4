import time

import openai
import pytest

from service.webhooks import signing

PAYLOAD = b'{"id":"evt_1","object":"event","created_at":1,"type":"fine_tuning.job.succeeded","data":{"id":"ftjob-1"}}'


def verify(payload: bytes, headers: dict[str, str], secret: str) -> None:
    client = openai.OpenAI(api_key="none", webhook_secret=secret)
    client.webhooks.verify_signature(payload.decode(), headers)


def test_openais_client_accepts_the_signature_and_refuses_a_changed_body():
    secret = signing.new_secret()
    headers = signing.headers([secret], id="msg_1", payload=PAYLOAD, now=time.time())
    verify(PAYLOAD, headers, secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        verify(PAYLOAD + b" ", headers, secret)


def test_while_a_secret_is_rotated_old_and_new_both_verify():
    now = time.time()
    entries = [{"secret": signing.new_secret(), "expires_at": None}]
    entries = signing.rotated(entries, now=now, overlap_s=60)
    headers = signing.headers(signing.in_force(entries, now=now), id="msg_1", payload=PAYLOAD, now=now)
    for entry in entries:
        verify(PAYLOAD, headers, entry["secret"])
    assert signing.in_force(entries, now=now + 61) == [entries[0]["secret"]]


def test_without_an_overlap_the_old_secret_is_gone():
    old = [{"secret": signing.new_secret(), "expires_at": None}]
    assert old[0] not in signing.rotated(old, now=0.0, overlap_s=0)


def test_a_rotation_does_not_lengthen_what_expires_and_drops_what_has_expired():
    entries = [{"secret": "whsec_b", "expires_at": 10.0}, {"secret": "whsec_a", "expires_at": 3.0}]
    rotated = signing.rotated(entries, now=5.0, overlap_s=100.0)
    assert rotated[1:] == [{"secret": "whsec_b", "expires_at": 10.0}]

"""`attune webhooks`: URLs that are told when something happens to jobs and sweeps."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from service.cli.output import DEFAULT_URL, JsonOption, UrlOption, age, console, print_fields, print_json, print_table
from service.client import AttuneClient

app = typer.Typer(help="URLs that are told when something happens to jobs and sweeps.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="The webhook's id, `wh_...`.")]
_HOUR_S = 3600.0


@app.command("create")
def create(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Where to POST to, such as https://example.org/hook.")
    ],
    event: Annotated[
        list[str] | None,
        typer.Option("--event", help="Such as fine_tuning.job.succeeded; may be given again. Without it: all."),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Register a URL, and print the secret that signs its messages, this once."""
    with AttuneClient(url) as client:
        webhook = client.webhooks.create(target, event_types=event or ())
    _show_with_secret(webhook, json=json)


@app.command("list")
def list_webhooks(
    after: Annotated[str | None, typer.Option("--after", help="Go on after this webhook.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="Most webhooks to list.")] = 20,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List webhooks, newest first."""
    with AttuneClient(url) as client:
        webhooks, more = client.webhooks.page(after=after, limit=limit)
    if json:
        print_json(webhooks)
        return
    rows = ((w["id"], w["url"], w["event_types"] or "all", _state(w), age(w["created_at"])) for w in webhooks)
    print_table(("id", "url", "told of", "state", "made"), rows)
    if more:
        console.print(f"more: --after {webhooks[-1]['id']}", markup=False)


@app.command("ping")
def ping(id: IdArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Send a test message; `attune webhooks deliveries` tells what came of it."""
    with AttuneClient(url) as client:
        delivery = client.webhooks.ping(id)
    _show_delivery(delivery, json=json)


@app.command("deliveries")
def deliveries(
    id: IdArgument,
    status: Annotated[str | None, typer.Option("--status", help="Only waiting, delivered or failed ones.")] = None,
    after: Annotated[str | None, typer.Option("--after", help="Go on after this message.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="Most messages to list.")] = 20,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List a webhook's messages, newest first, with what became of them."""
    with AttuneClient(url) as client:
        found, more = client.webhooks.deliveries(id, status=status, after=after, limit=limit)
    if json:
        print_json(found)
        return
    columns = ("id", "event", "status", "tries", "last answer", "made")
    answers = [(d, d["last_error"] or d["last_status"]) for d in found]
    print_table(
        columns, [(d["id"], d["event_type"], d["status"], d["num_tries"], a, age(d["created_at"])) for d, a in answers]
    )
    if more:
        console.print(f"more: --after {found[-1]['id']}", markup=False)


@app.command("resend")
def resend(
    id: IdArgument,
    message: Annotated[str | None, typer.Argument(help="One message, `msg_...`.")] = None,
    hours: Annotated[
        float, typer.Option("--hours", min=0, help="Without a message: all that failed in the last hours.")
    ] = 24.0,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Send one message again, or all that have failed lately; they keep their ids."""
    with AttuneClient(url) as client:
        if message is not None:
            _show_delivery(client.webhooks.redeliver(id, message), json=json)
            return
        answer = client.webhooks.replay(id, since=max(0.0, time.time() - hours * _HOUR_S))
    if json:
        print_json(answer)
    else:
        print_fields({**answer, "object": None})


@app.command("rotate")
def rotate(
    id: IdArgument,
    overlap: Annotated[float, typer.Option("--overlap", min=0, help="Seconds for which the old secret signs, too.")] = (
        24 * _HOUR_S
    ),
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make a new secret and print it, this once."""
    with AttuneClient(url) as client:
        webhook = client.webhooks.rotate_secret(id, overlap_s=overlap)
    _show_with_secret(webhook, json=json)


@app.command("enable")
def enable(id: IdArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Send messages again to a webhook that was disabled."""
    with AttuneClient(url) as client:
        webhook = client.webhooks.change(id, enabled=True)
    if json:
        print_json(webhook)
    else:
        print_fields({**webhook, "object": None, "created_at": age(webhook["created_at"])})


@app.command("delete")
def delete(id: IdArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Delete a webhook with its messages."""
    with AttuneClient(url) as client:
        answer = client.webhooks.delete(id)
    if json:
        print_json(answer)
    else:
        console.print(f"{id} is removed", markup=False)


def _show_with_secret(webhook: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(webhook)
        return
    print_fields({"id": webhook["id"], "url": webhook["url"], "told of": webhook["event_types"] or "all"})
    console.print(f"secret, shown this once: {webhook['secret']}", markup=False, soft_wrap=True)


def _show_delivery(delivery: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(delivery)
    else:
        console.print(f"{delivery['id']} is on its way", markup=False)


def _state(webhook: dict[str, Any]) -> str:
    if not webhook["enabled"]:
        return f"disabled: {webhook['disabled_reason']}" if webhook["disabled_reason"] else "disabled"
    failing = webhook["failing_since"]
    return f"failing for {str(age(failing)).removesuffix(' ago')}" if failing is not None else "enabled"

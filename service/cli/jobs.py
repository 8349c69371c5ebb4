"""`attune jobs`: submit fine-tuning jobs to the service and follow them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from service.cli.exits import DONE, FAILED, STOPPED, USAGE, CommandError
from service.cli.output import (
    DEFAULT_URL,
    JsonOption,
    UrlOption,
    age,
    console,
    duration,
    error_console,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from service.cli.specs import RecipeOption, SetOption, SpecOption, partial_spec_for_service
from service.cli.watching import JobDisplay
from service.client import AttuneClient
from service.client_errors import Conflict

app = typer.Typer(help="Fine-tuning jobs of the service.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="The job's id, such as ftjob-8c1f...", metavar="JOB")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100, help="How many at most.")]
AfterOption = Annotated[str | None, typer.Option("--after", help="Go on after this id.", show_default=False)]


@app.command("create")
def create(
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    suffix: Annotated[
        str | None, typer.Option("--suffix", help="Part of the model's name to be.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A note; can be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it has ended.")] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> int:
    """Submit a job. Relative paths in it are taken from the current folder."""
    partial = partial_spec_for_service(spec, recipe, overrides)
    notes = _pairs(metadata or []) or None
    with AttuneClient(url) as client:
        job = client.create_job(spec=partial, suffix=suffix, metadata=notes)
        if watch:
            return _watch(client, job["id"], json=json)
    if json:
        print_json(job)
    else:
        console.print(
            f"{job['id']} is {job['status']}; follow it: attune jobs watch {job['id']}", markup=False, soft_wrap=True
        )
    return DONE


@app.command("list")
def list_jobs(
    limit: LimitOption = 20,
    after: AfterOption = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Only jobs that carry this note.")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    with AttuneClient(url) as client:
        jobs, has_more = client.jobs(after=after, limit=limit, metadata=_pairs(metadata or []))
    if json:
        print_json(jobs)
        return
    rows = ((j["id"], j["status"], j["model"], j["recipe"], age(j["created_at"]), _outcome(j)) for j in jobs)
    print_table(("job", "status", "model", "recipe", "made", "result"), rows)
    if has_more:
        error_console.print(f"there are more: attune jobs list --after {jobs[-1]['id']}", markup=False, soft_wrap=True)


@app.command("show")
def show(job_id: JobArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Show one job with its attempts and checkpoints."""
    with AttuneClient(url) as client:
        job = client.job(job_id)
        checkpoints, _ = client.checkpoints(job_id, limit=100)
        place = _place(client, job)
    if json:
        print_json({**job, "checkpoints": checkpoints, "queue": place})
        return
    print_fields({**_summary(job), "queue": place and f"place {place['position']}: {place['message']}"})
    if job["attempts"]:
        rows = ((a["number"], a["end_reason"] or a["status"], a["last_step"], a["devices"]) for a in job["attempts"])
        console.print()
        print_table(("attempt", "state", "last step", "devices"), rows)
    if checkpoints:
        console.print()
        print_table(("checkpoint", "metrics"), ((c["name"], c["metrics"]) for c in checkpoints))


@app.command("watch")
def watch(job_id: JobArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> int:
    """Follow a job until it has ended: progress, loss, images/s and time left. Ctrl-C leaves the job running."""
    with AttuneClient(url) as client:
        client.job(job_id)  # the stream would wait for a service that is not there to come back
        return _watch(client, job_id, json=json)


@app.command("logs")
def logs(
    job_id: JobArgument,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Which attempt; by default the latest.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Write what the workers printed."""
    with AttuneClient(url) as client:
        for text in client.logs(job_id, attempt=attempt, follow=follow):
            if json:
                print_json_line({"text": text})
            else:
                sys.stdout.write(text)
                sys.stdout.flush()


@app.command("events")
def events(
    job_id: JobArgument,
    limit: LimitOption = 20,
    after: AfterOption = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List what happened to a job, newest first."""
    with AttuneClient(url) as client:
        page, _ = client.list_events(job_id, after=after, limit=limit)
    if json:
        print_json(page)
    else:
        print_table(("when", "level", "event"), ((age(e["created_at"]), e["level"], e["message"]) for e in page))


@app.command("cancel")
def cancel(job_id: JobArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Cancel a job. Its workers save a checkpoint if there is time."""
    with AttuneClient(url) as client:
        _tell_status(client.cancel(job_id), json=json)


@app.command("pause")
def pause(job_id: JobArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Keep a queued job from starting, or stop a running one after it has saved a checkpoint."""
    with AttuneClient(url) as client:
        _tell_status(client.pause(job_id), json=json)


@app.command("resume")
def resume(job_id: JobArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Queue a paused job again; it goes on from its latest checkpoint."""
    with AttuneClient(url) as client:
        _tell_status(client.resume(job_id), json=json)


@app.command("queue")
def queue(
    limit: LimitOption = 20,
    after: AfterOption = None,
    all_projects: Annotated[bool, typer.Option("--all-projects", help="Of every project; for operators.")] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List the jobs that wait for devices, in order, and why each of them waits."""
    with AttuneClient(url) as client:
        places, has_more = client.queue(after=after, limit=limit, all_projects=all_projects)
    if json:
        print_json(places)
        return
    rows = ((p["position"], p["id"], p["project_id"], p["priority"], p["devices"], p["message"]) for p in places)
    print_table(("place", "job", "project", "priority", "devices", "why it waits"), rows)
    if has_more:
        error_console.print(f"there are more: attune jobs queue --after {places[-1]['id']}", markup=False)


@app.command("move")
def move(
    job_id: JobArgument,
    to: Annotated[str | None, typer.Option("--to", help="front or back.", show_default=False)] = None,
    before: Annotated[str | None, typer.Option("--before", help="Another waiting job.", show_default=False)] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Move a waiting job among those of its project and priority."""
    if (to is None) == (before is None) or to not in (None, "front", "back"):
        raise CommandError("give --to front, --to back or --before JOB", code=USAGE)
    with AttuneClient(url) as client:
        place = client.move_job(job_id, to=to, before=before)
    if json:
        print_json(place)
    else:
        console.print(f"{place['id']} is at place {place['position']}: {place['message']}", markup=False)


@app.command("change")
def change(
    job_id: JobArgument,
    priority: Annotated[int | None, typer.Option("--priority", min=0, max=100, help="Higher goes first.")] = None,
    preemptible: Annotated[
        bool | None, typer.Option("--preemptible/--not-preemptible", help="Whether higher priorities may stop it.")
    ] = None,
    deadline: Annotated[float | None, typer.Option("--deadline", help="Unix time; 0 takes it away.")] = None,
    max_runtime_s: Annotated[
        float | None, typer.Option("--max-runtime-s", help="Seconds of running in all; 0 takes the limit away.")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Change the priority or the limits of a job that has not ended."""
    limits = {"deadline": deadline, "max_runtime_s": max_runtime_s}
    changes: dict[str, Any] = {name: value or None for name, value in limits.items() if value is not None}
    changes |= {n: v for n, v in (("priority", priority), ("preemptible", preemptible)) if v is not None}
    if not changes:
        raise CommandError("say what to change: --priority, --preemptible, --deadline, --max-runtime-s", code=USAGE)
    with AttuneClient(url) as client:
        _tell_status(client.change_job(job_id, **changes), json=json)


def _tell_status(job: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(job)
    else:
        console.print(f"{job['id']} is {job['status']}", markup=False, soft_wrap=True)


def _watch(client: AttuneClient, job_id: str, *, json: bool) -> int:
    try:
        if json:
            for event in client.events(job_id):
                print_json_line(event)
        else:
            with JobDisplay(console) as display:
                for event in client.events(job_id):
                    display.show(event)
    except KeyboardInterrupt:
        error_console.print(f"the job goes on; attune jobs cancel {job_id} ends it", markup=False, soft_wrap=True)
        return STOPPED
    job = client.job(job_id)
    if not json:
        console.print(f"{job_id}: {job['status']}  {_outcome(job) or ''}", markup=False, soft_wrap=True)
    return DONE if job["status"] == "succeeded" else FAILED


def _place(client: AttuneClient, job: dict[str, Any]) -> dict[str, Any] | None:
    if job["status"] != "queued":
        return None
    try:
        return client.place_in_queue(job["id"])
    except Conflict:  # it started in between
        return None


def _outcome(job: dict[str, Any]) -> str | None:
    if job["error"]:
        return str(job["error"]["message"])
    name: str | None = job["fine_tuned_model"]
    return name


def _summary(job: dict[str, Any]) -> dict[str, Any]:
    seconds = (job["finished_at"] or 0) - (job["started_at"] or 0)
    return {
        "job": job["id"],
        "status": job["status"],
        "error": job["error"] and f"{job['error']['message']} ({job['error']['code']})",
        "fine-tuned model": job["fine_tuned_model"],
        "model": job["model"],
        "recipe": job["recipe"],
        "training data": job["training_file"],
        "made": age(job["created_at"]),
        "ran for": duration(seconds) if job["finished_at"] and job["started_at"] else None,
        "metadata": job["metadata"],
        "folder": job["job_dir"],
    }


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise CommandError(f"--metadata {key!r} is not of the form KEY=VALUE", code=USAGE)
    return {key: value for key, _, value in pairs}

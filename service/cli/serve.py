"""`attune serve`: the service in this process, until Ctrl-C or SIGTERM. Jobs that run go on without it."""

from __future__ import annotations

import errno
import gc
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli.exits import DONE, USAGE, CommandError
from service.cli.output import JsonOption, console, print_json_line
from service.jobs.retry_rules import RetryRulesError, read_rules
from service.settings import Settings, SettingsError, load_settings

_SWITCH_S = 0.001  # how long a thread at work keeps the one that answers requests waiting; Python's default is 0.005
_GRACE_S = 5  # event streams end with the connection; nothing else takes longer


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on (ATTUNE_HOST).", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one (ATTUNE_PORT).", show_default="8321"),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder for jobs and database (ATTUNE_DATA_DIR).", show_default="~/.attune"),
    ] = None,
    log_level: Annotated[
        str, typer.Option("--log-level", help="critical, error, warning, info or debug.", metavar="LEVEL")
    ] = "info",
    json: JsonOption = False,
) -> int:
    """Start the service."""
    if log_level not in ("critical", "error", "warning", "info", "debug"):
        message = f"--log-level {log_level!r} is none of critical, error, warning, info, debug"
        raise CommandError(message, code=USAGE)
    options = {"host": host, "port": port, "data_dir": data_dir}
    try:
        settings = load_settings(**{name: value for name, value in options.items() if value is not None})
        if settings.retry_rules is not None:
            read_rules(settings.retry_rules)
    except (SettingsError, RetryRulesError) as error:
        raise CommandError(str(error), code=USAGE) from None
    with _listen(settings) as listening:
        _run_server(settings, listening, log_level=log_level, json=json)
    return DONE


def _listen(settings: Settings) -> socket.socket:
    """A listening socket, taken before anything else starts: two services on one port would fight over jobs."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise CommandError(_why_not(settings, error), code=USAGE) from None
    return listening


def _why_not(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.port} of {settings.host} is in use; stop what listens there, or give another --port"
    return f"cannot listen on {where}: {error.strerror}"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(settings: Settings, listening: socket.socket, *, json: bool) -> None:
    url = _url(settings.host, listening.getsockname()[1])
    if json:
        print_json_line({"url": url, "data_dir": str(settings.data_dir)})
    else:
        text = f"Attune serves on {url} (API: {url}/docs), data in {settings.data_dir}"
        console.print(text, markup=False, soft_wrap=True)


def _run_server(settings: Settings, listening: socket.socket, *, log_level: str, json: bool) -> None:
    # Not at the top: other commands must not wait for the web framework and the database.
    import uvicorn

    from service.app import create_app
    from service.logs import configure_logging
    from service.server import Server
    from service.startup import StartError, open_store

    configure_logging(settings.log_format, level=log_level)
    sys.setswitchinterval(_SWITCH_S)
    try:
        app = create_app(settings, store=open_store(settings))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=log_level == "debug",
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
        )
        # uvicorn raises the signal that stopped it once more at the end, for whoever handled it before.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

        def ready() -> None:
            # What there is now stays: a full collection would look at all of it, while every request waits.
            gc.collect()
            gc.freeze()
            _announce(settings, listening, json=json)

        server = Server(app, config, on_ready=ready)
        server.run(sockets=[listening])
    except StartError as error:
        raise CommandError(str(error), code=USAGE) from None

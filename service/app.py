"""The application: `create_app(settings)` puts the control plane together, for uvicorn to serve.

Its lifespan opens the store, unless it was given an open one, and starts the job runner and the inference gateway.
Jobs that run when it ends go on, and the next start finds them again.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.dependencies import AllowedCaller
from service.errors import install_error_handlers
from service.files.assembling import UploadAssembler
from service.files.library import FileLibrary
from service.inference.gateway import Gateway
from service.jobs.planning import Planner
from service.jobs.preflight import PreflightCommand, trainer_preflight
from service.jobs.promotion import Promotions
from service.jobs.runner import JobRunner
from service.launchers.base import Launcher
from service.launchers.local import LocalLauncher
from service.metrics import Metrics
from service.middleware import FORM_BYTES, BodyLimit, RequestIds, RequestMetrics
from service.openapi import DESCRIPTION, describe_with_spec
from service.routers import artifacts, estimate, events, files, health, inference, jobs, models, recipes, uploads
from service.settings import Settings
from service.startup import open_store
from service.store.store import Store


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    launcher: Launcher | None = None,
    preflight_command: PreflightCommand = trainer_preflight,
) -> FastAPI:
    """The control plane as an ASGI application.

    `store` is one from `open_store`, for those who must know that there is one before they announce anything; the
    application closes it. `launcher` takes the place of the local one; `preflight_command` makes the argument list
    that checks a job's data.
    """
    app = FastAPI(
        title="Attune",
        version=importlib.metadata.version("attune-clip"),
        description=DESCRIPTION,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.launcher = launcher or LocalLauncher(cpu_slots=settings.cpu_slots, weights_dir=settings.weights_dir)
    app.state.preflight_command = preflight_command
    app.state.metrics = Metrics()
    app.state.closing = threading.Event()
    app.include_router(health.router)
    for room in (estimate, jobs, events, artifacts, models, files, uploads, inference, recipes):
        app.include_router(room.router, dependencies=[AllowedCaller])
    install_error_handlers(app)
    describe_with_spec(app)
    larger = {
        r"/v1/files": settings.max_file_bytes + FORM_BYTES,
        r"/v1/uploads/[^/]+/parts": settings.max_upload_part_bytes + FORM_BYTES,
    }
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes, larger=larger)
    app.add_middleware(RequestMetrics, metrics=app.state.metrics)
    app.add_middleware(RequestIds)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    settings: Settings = state.settings
    state.store = state.store or open_store(settings)
    state.metrics.watch(state.store, state.launcher.capacity())
    state.gateway = Gateway(settings, registry=state.metrics.registry)
    state.files = FileLibrary(state.store, settings)
    state.uploads = UploadAssembler(state.store, state.files)
    state.planner = Planner(max_running=settings.max_estimates, timeout_s=settings.estimate_timeout_s)
    state.promotions = Promotions(state.store, weights_dir=settings.weights_dir)
    state.runner = JobRunner(
        state.store,
        state.launcher,
        data_dir=settings.data_dir,
        cancel_grace_s=settings.cancel_grace_s,
        poll_interval_s=settings.poll_interval_s,
        max_crashes_without_progress=settings.max_crashes_without_progress,
        preflight_command=state.preflight_command,
        weights_dir=settings.weights_dir,
    )
    state.runner.start()
    try:
        yield
    finally:
        await state.gateway.close()
        state.runner.stop()
        state.store.close()

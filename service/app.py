"""The application: `create_app(settings)` puts the control plane together, for uvicorn to serve.

Its lifespan opens the store, unless it was given an open one, and starts the job runner and the inference gateway.
Jobs that run when it ends go on, and the next start finds them again.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.audit_trail import AuditTrail
from service.dependencies import AllowedCaller
from service.doorkeeper import Doorkeeper
from service.errors import install_error_handlers
from service.files.assembling import UploadAssembler
from service.files.library import FileLibrary
from service.inference.gateway import Gateway
from service.jobs.chores import Chore
from service.jobs.planning import Planner
from service.jobs.preflight import PreflightCommand, trainer_preflight
from service.jobs.preflight_watch import PreflightLimits
from service.jobs.promotion import Promotions
from service.jobs.retention import Retention
from service.jobs.retry_rules import read_rules
from service.jobs.runner import JobRunner
from service.jobs.scheduling.limits import Patience
from service.launchers.base import Launcher
from service.launchers.inherited import child_environment
from service.metrics import Metrics
from service.middleware import FORM_BYTES, JSON_BYTES, BodyLimit, RequestIds, RequestMetrics, SecurityHeaders
from service.openapi import DESCRIPTION, describe_with_spec
from service.readiness import readiness_of
from service.routers import (
    artifacts,
    audit,
    checkpoints,
    estimate,
    events,
    files,
    health,
    inference,
    jobs,
    keys,
    models,
    projects,
    queue,
    recipes,
    sweeps,
    uploads,
    webhooks,
)
from service.settings import Settings
from service.startup import open_engine, open_store, open_tracing
from service.store.store import Store
from service.store.write_ahead_log import WriteAheadLog
from service.sweeps.stepper import SweepStepper
from service.sweeps.submitting import Submitter
from service.tracing import RequestAttributes, Tracing
from service.webhooks.deliverer import deliverer_of

_FORGET_EVERY_S = 3600.0


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    launcher: Launcher | None = None,
    preflight_command: PreflightCommand = trainer_preflight,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The control plane as an ASGI application.

    `store` is one from `open_store`, for those who must know that there is one before they announce anything; the
    application closes it. `launcher` takes the place of the engine that the settings name; `preflight_command` makes
    the argument list that checks a job's data; `tracing` takes the place of what the settings say about traces.
    """
    app = FastAPI(
        title="Attune",
        version=importlib.metadata.version("attune-clip"),
        description=DESCRIPTION,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.launcher = launcher or open_engine(settings)
    app.state.preflight_command = preflight_command
    app.state.metrics = Metrics()
    app.state.tracing = tracing or open_tracing(settings)
    app.state.closing = threading.Event()
    app.include_router(health.router)
    for room in (
        estimate,
        jobs,
        events,
        checkpoints,
        artifacts,
        models,
        files,
        uploads,
        inference,
        queue,
        recipes,
        keys,
        projects,
        audit,
        webhooks,
        sweeps,
    ):
        app.include_router(room.router, dependencies=[AllowedCaller])
    install_error_handlers(app)
    describe_with_spec(app)
    larger = {
        r"/v1/files": settings.max_file_bytes + FORM_BYTES,
        r"/v1/uploads/[^/]+/parts": settings.max_upload_part_bytes + FORM_BYTES,
    }
    smaller = {r"/v1/(fine_tuning|keys|projects|webhooks|queue)(/.*)?": min(JSON_BYTES, settings.max_request_bytes)}
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes, others=larger | smaller)
    app.add_middleware(Doorkeeper, settings=settings)
    app.add_middleware(AuditTrail)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(RequestMetrics, metrics=app.state.metrics)
    app.add_middleware(SecurityHeaders)
    if app.state.tracing is not None:
        app.add_middleware(RequestAttributes)
    app.add_middleware(RequestIds)
    if app.state.tracing is not None:
        app.state.tracing.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    settings: Settings = state.settings
    state.store = state.store or open_store(settings)
    state.metrics.watch(state.store, state.launcher.capacity)
    state.gateway = Gateway(settings, registry=state.metrics.registry)
    state.files = FileLibrary(state.store, settings)
    state.uploads = UploadAssembler(state.store, state.files)
    state.planner = Planner(
        max_running=settings.max_estimates,
        timeout_s=settings.estimate_timeout_s,
        environment=child_environment(settings),
    )
    state.promotions = Promotions(
        state.store, weights_dir=settings.weights_dir, environment=child_environment(settings)
    )
    state.runner = JobRunner(
        state.store,
        state.launcher,
        data_dir=settings.data_dir,
        cancel_grace_s=settings.cancel_grace_s,
        poll_interval_s=settings.poll_interval_s,
        max_crashes_without_progress=settings.max_crashes_without_progress,
        patience=Patience(training_s=settings.stall_timeout_s, other_stages_s=settings.stall_timeout_other_stages_s),
        retry_rules=() if settings.retry_rules is None else read_rules(settings.retry_rules),
        preflight_command=state.preflight_command,
        preflight_limits=PreflightLimits(stall_s=settings.preflight_stall_s, total_s=settings.preflight_timeout_s),
        weights_dir=settings.weights_dir,
        environment=child_environment(settings),
        on_attempt_end=None if state.tracing is None else state.tracing.attempt_ended,
    )
    state.runner.start()
    state.readiness = readiness_of(
        state.store,
        state.runner,
        state.launcher,
        state.gateway,
        jobs_dir=settings.jobs_dir,
        limit_s=settings.readiness_timeout_s,
        tells_why=settings.metrics_are_open,
    )
    state.deliverer = deliverer_of(settings, state.store, owner=state.runner.replica_id)
    state.deliverer.start()
    state.sweep_submitter = Submitter(state.store, settings, files=state.files, capacity=state.launcher.capacity)
    state.sweeps = SweepStepper(
        state.store,
        state.sweep_submitter,
        owner=state.runner.replica_id,
        wake_runner=state.runner.wake,
        interval_s=settings.poll_interval_s,
    )
    state.sweeps.chore.start()
    state.retention = Retention(
        state.store, settings, owner=state.runner.replica_id, remove_expired_files=state.files.remove_expired
    )
    state.retention.chore.start()
    forgetting = Chore(
        state.store,
        name="audit-retention",
        owner=state.runner.replica_id,
        interval_s=_FORGET_EVERY_S,
        turn=lambda: state.store.audit.remove_before(time.time() - settings.audit_lifetime_s),
    )
    forgetting.start()
    write_ahead_log = WriteAheadLog(state.store.database)
    write_ahead_log.start()
    try:
        yield
    finally:
        await state.readiness.close()
        await state.gateway.close()
        forgetting.stop()
        state.retention.chore.stop()
        state.sweeps.chore.stop()
        state.deliverer.stop()
        state.runner.stop()
        state.launcher.close()
        write_ahead_log.stop()
        state.store.close()
        if state.tracing is not None:
            state.tracing.close()

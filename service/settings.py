"""Settings of the service: `ATTUNE_*` environment variables, or keyword arguments in code.

Nothing is read from the environment at import; make one `Settings()` where the service starts and hand it on.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _split_at(separators: str) -> BeforeValidator:
    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for separator in separators[1:]:
            value = value.replace(separator, separators[0])
        return tuple(part.strip() for part in value.split(separators[0]) if part.strip())

    return BeforeValidator(split)


Folders = Annotated[tuple[Path, ...], NoDecode, _split_at(os.pathsep)]
Words = Annotated[tuple[str, ...], NoDecode, _split_at(", ")]


class Settings(BaseSettings):
    """Everything about the service that a deployment may want to change."""

    model_config = SettingsConfigDict(
        env_prefix="ATTUNE_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    data_dir: Path = Path("~/.attune")
    """Folder for the database and the job folders; made on first use."""
    database_url: str | None = None
    """SQLAlchemy URL of an SQLite or PostgreSQL database; None: SQLite in `data_dir/attune.db`."""
    weights_dir: Path | None = None
    """Folder of pretrained weights for machines without a network; passed on to workers."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs an API key in the database (`attune keys create`)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8321
    """Port to listen on; 0 takes a free one."""
    allow_unauthenticated: bool = False
    """Listen beyond this machine without any API key, although anybody who reaches the port can then start jobs."""
    allowed_roots: Folders | None = None
    """Folders that paths in specs may lie in, with `:` between them. None: any, until there is an API key; then only
    the files that were uploaded to the project."""
    allowed_urls: Words | None = None
    """What data URLs in specs may begin with, with commas between: `s3://bucket/`, `https://data.example.org/`,
    `https://*.example.org/`. None: any, until there is an API key; then none."""
    requests_per_minute: PositiveFloat | None = 6000.0
    """Requests that one API key may send, on each replica; ten seconds' worth may come at once."""
    submissions_per_minute: PositiveFloat | None = 600.0
    """Jobs, sweeps and estimates that one API key may ask for, on each replica; ten seconds' worth may come at once."""
    metrics_access: Literal["auto", "open", "operator"] = "auto"
    """Who may read `/metrics`: anybody, or an operator's key; `auto` is open on a loopback address only."""
    cors_origins: Words = ()
    """Origins whose web pages may call the service, with commas between; none by default."""
    audit_lifetime_s: PositiveFloat = 31_536_000.0
    """Seconds for which the audit log is kept."""
    log_format: Literal["text", "json"] = "text"
    """How log lines are written: for people, or a JSON object each."""
    max_request_bytes: PositiveInt = 64 * MEBIBYTE
    """Largest request body, in bytes; a larger one is refused with status 413."""
    sse_heartbeat_s: PositiveFloat = 15.0
    """Seconds between comments on an event stream that has nothing to say."""
    stream_poll_s: PositiveFloat = 0.25
    """Seconds between looks for news on an event or log stream."""

    cpu_slots: PositiveInt | None = None
    """Processes that jobs may occupy at once on a machine without GPUs; None: one a core."""
    poll_interval_s: PositiveFloat = 0.5
    """Seconds between two looks at running jobs."""
    cancel_grace_s: NonNegativeFloat = 30.0
    """Seconds between asking the processes of a cancelled or paused job to stop and killing them."""
    max_crashes_without_progress: PositiveInt = 3
    """Attempts in a row that may crash without a new checkpoint before the job counts as failed."""

    max_file_bytes: PositiveInt = 16 * GIBIBYTE
    """Largest uploaded file, in bytes, whole or in parts."""
    max_upload_part_bytes: PositiveInt = 64 * MEBIBYTE
    """Largest part of an upload, in bytes."""
    upload_lifetime_s: PositiveFloat = 86_400.0
    """Seconds that an upload may take from its creation to its completion."""
    max_archive_files: PositiveInt = 2_000_000
    """Most files in an uploaded archive."""
    max_unpacked_bytes: PositiveInt = 64 * GIBIBYTE
    """Most bytes that an uploaded archive may unpack to."""
    max_unpack_ratio: PositiveFloat = 100.0
    """Most bytes that an archive may unpack to for each of its own; photographs hardly shrink."""
    idempotency_lifetime_s: PositiveFloat = 86_400.0
    """Seconds for which the answer to a request with an `Idempotency-Key` is repeated."""
    max_estimates: PositiveInt = 2
    """Estimates made at once, each in a process of its own."""
    estimate_timeout_s: PositiveFloat = 120.0
    """Seconds until an estimate is given up."""

    max_image_bytes: PositiveInt = 20 * MEBIBYTE
    """Largest encoded image at the inference endpoints, in bytes."""
    max_image_pixels: PositiveInt = 50_000_000
    """Most pixels of one image at the inference endpoints; checked in its header, before decoding."""
    max_images_per_request: PositiveInt = 64
    """Most images in one inference request."""
    max_texts_per_request: PositiveInt = 2048
    """Most texts in one embeddings request."""
    inference_max_batch_size: PositiveInt = 32
    """Most images the inference worker takes in one forward pass."""
    inference_batch_timeout_ms: NonNegativeFloat = 5.0
    """Milliseconds to wait for a batch to fill."""
    inference_queue_limit: PositiveInt = 256
    """Images waiting for inference before further requests are refused with status 429."""
    inference_request_timeout_s: PositiveFloat = 60.0
    """Seconds until an inference request is given up, loading the model included."""
    inference_idle_unload_s: PositiveFloat = 300.0
    """Seconds without a request after which a model's inference worker ends and frees its memory."""
    inference_load_timeout_s: PositiveFloat = 300.0
    """Seconds until a model that has not finished loading counts as broken."""
    inference_max_models: PositiveInt = 3
    """Models loaded at once, each in its own worker process; the one used longest ago makes room."""
    inference_device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where models answer: `cpu`, `cuda`, `cuda:N`, or `auto`, which takes a GPU if there is one."""
    max_classes: PositiveInt = 10_000
    """Most class names in one zero-shot request."""
    max_prompts: PositiveInt = 100_000
    """Most prompts, class names times templates, in one zero-shot request."""

    @field_validator("data_dir", "weights_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("allowed_roots")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        return None if value is None else tuple(root.expanduser().absolute() for root in value)

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or the URL of the SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'attune.db'}"

    @property
    def files_dir(self) -> Path:
        """Folder of uploaded files: a folder a project."""
        return self.data_dir / "files"

    @property
    def metrics_are_open(self) -> bool:
        """Whether `/metrics` answers anybody."""
        return self.metrics_access == "open" or (self.metrics_access == "auto" and is_loopback(self.host))

    @property
    def jobs_dir(self) -> Path:
        """Folder that holds a folder for each job."""
        return self.data_dir / "jobs"


class SettingsError(ValueError):
    """The environment or the command line holds settings that cannot be; the text is a sentence for each."""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with `overrides` on top.

    Raises:
        SettingsError: one line a problem, naming the variable.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    return f"ATTUNE_{str(problem['loc'][0]).upper()}: {message}, got {problem['input']!r}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

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
    worker_secrets: Words = (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY"),
        *("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"),
    )
    """Environment variables that workers get although their names say that they are secrets: by default those that
    data and models are fetched with. All others that look like secrets stay with the service."""
    requests_per_minute: PositiveFloat | None = 6000.0
    """Requests that one API key may send, on each replica; ten seconds' worth may come at once."""
    submissions_per_minute: PositiveFloat | None = 600.0
    """Jobs, sweeps and estimates that one API key may ask for, on each replica; ten seconds' worth may come at once."""
    metrics_access: Literal["auto", "open", "operator"] = "auto"
    """Who may read `/metrics`: anybody, or an operator's key; `auto` is open on a loopback address only."""
    trusted_proxies: Words = ()
    """Addresses or networks of proxies, with commas between, whose `X-Forwarded-For` says where a request comes from;
    nobody's is believed by default."""
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

    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector that takes traces over HTTP, such as `http://127.0.0.1:4318`; None: what
    OTEL_EXPORTER_OTLP_ENDPOINT says, and without it no traces are made. Needs the extra `otel`."""
    readiness_timeout_s: PositiveFloat = 5.0
    """Seconds that each part of the service has to answer when `/readyz` is asked."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """What runs jobs: this machine, a Ray cluster or Slurm. The others need `data_dir` on a file system that all
    machines see at the same path; docs/distributed.md says how to bring them up."""
    ray_address: str = "127.0.0.1:6379"
    """`HOST:PORT` of the Ray cluster's head. A Ray node must run on this machine too."""
    ray_namespace: str = "attune"
    """Ray namespace of this service's actors; services with databases of their own need names of their own."""
    ray_token_file: Path | None = None
    """File with the Ray cluster's token; None: what RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN says. There must be one."""
    ray_lost_after_s: PositiveFloat = 60.0
    """Seconds without an answer from the Ray cluster after which its runs count as lost and go on elsewhere."""
    slurm_partition: str | None = None
    """Slurm partition for jobs; None: Slurm's default."""
    slurm_account: str | None = None
    """Slurm account for jobs; None: the user's default."""
    slurm_arguments: Words = ()
    """Further arguments for `sbatch`, with spaces or commas between, such as `--qos=long --time=24:00:00`."""
    slurm_python: str | None = None
    """Python interpreter on the Slurm nodes, with Attune installed; None: this service's own path."""
    cpu_slots: PositiveInt | None = None
    """Processes that jobs may occupy at once on each machine without GPUs; None: one a core."""
    job_niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """How much jobs on this machine give way to the service, which needs little but at once; 0: not at all."""
    poll_interval_s: PositiveFloat = 0.5
    """Seconds between two looks at running jobs."""
    cancel_grace_s: NonNegativeFloat = 30.0
    """Seconds between asking the processes of a cancelled or paused job to stop and killing them."""
    max_crashes_without_progress: PositiveInt = 3
    """Attempts in a row that may crash without a new checkpoint before the job counts as failed."""
    retry_rules: Path | None = None
    """YAML or JSON file with rules for attempts that fail, which go before the default ones; see
    docs/job-lifecycle.md."""
    preflight_stall_s: PositiveFloat = 900.0
    """Seconds for which the check of a job's data may neither note nor compute anything before the job fails."""
    preflight_timeout_s: PositiveFloat = 86_400.0
    """Seconds that the check of a job's data may take in all."""
    usage_half_life_s: PositiveFloat = 604_800.0
    """Seconds after which the devices' time that a project has used counts half in its fair share."""
    stall_timeout_s: PositiveFloat = 1800.0
    """Seconds for which a training attempt may tell nothing, neither a step nor anything else, before it is killed and
    tried again; a job's own `scheduling.stall_timeout_s` goes before it."""
    stall_timeout_other_stages_s: PositiveFloat = 7200.0
    """The same while it starts, loads, evaluates or exports, where little is told for long."""

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
    webhook_allowed_networks: Words = ()
    """Private networks that webhooks may lead to, with commas between: `10.0.0.0/8`, `127.0.0.0/8`. Elsewhere they lead
    only to https:// and public addresses."""
    webhook_timeout_s: PositiveFloat = 15.0
    """Seconds for one try to deliver a message."""
    webhook_first_retry_s: PositiveFloat = 5.0
    """Seconds until a message is tried again; each further pause is four times as long."""
    webhook_max_retry_s: PositiveFloat = 21_600.0
    """Longest pause between two tries, in seconds."""
    webhook_max_tries: PositiveInt = 12
    """Tries after which a message has failed; it can be sent again by hand."""
    webhook_disable_after_s: PositiveFloat = 432_000.0
    """Seconds of nothing but failures after which a webhook is disabled."""
    retention_interval_s: PositiveFloat = 600.0
    """Seconds between two looks for what is to be removed."""
    retention_checkpoint_days: NonNegativeFloat | None = None
    """Days after a job's end for which all its checkpoints are kept; then only the best, the latest and promoted ones.
    None: for ever, unless the project is over its quota."""
    retention_job_files_days: NonNegativeFloat | None = None
    """Days after a job's end for which its folder is kept; then only what a registered model needs. None: for ever."""
    retention_deliveries_days: PositiveFloat = 30.0
    """Days for which messages to webhooks are kept, to be looked at and sent again."""
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

    @field_validator("data_dir", "weights_dir", "ray_token_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("allowed_roots")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        return None if value is None else tuple(root.expanduser().absolute() for root in value)

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text)  # its error says what is wrong
        return value

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

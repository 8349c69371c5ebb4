"""Where a spec may point: folders and URLs that the operator allows, and nothing of another project.

Without any API key, a service that only this machine can reach takes every path: whoever asks could read the files
anyway. Once there are keys, paths lie in the project's own uploaded files or below ATTUNE_ALLOWED_ROOTS, and URLs begin
as one of ATTUNE_ALLOWED_URLS. The raw values are looked at, before anything reads a file that they name; links are
followed first. The service's own folder is closed, even below an allowed root: it holds the other projects' data.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from dali_pipelines.patterns import PatternError, expanded
from service.settings import Settings, is_loopback
from service.store.store import Store
from trainer.prompts import published_class_names
from trainer.resolve import SpecProblem

PATH_FIELDS = frozenset({"path", "images_root", "deepspeed_config", "nvme_path"})
"""Fields of a spec that always name a file or a folder, wherever they stand."""
LOCAL_MODEL = "local-dir:"
HUB_MODEL = "hf-hub:"
NEVER_URLS = frozenset({"file", "local", "memory", "data", "ftp", "sftp", "ssh", "smb", "arrow_hdfs", "reference"})
_DATA_FIELD = re.compile(r"data\.(train|validation|evaluate\.[^.]+)(\.\d+|\.sources\.\d+)?")
_MAX_PATTERNS = 100_000
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(?:::|://)")
_PATTERN_CHARACTER = re.compile(r"[*?\[{]")
_DEEPSPEED_SECTIONS = frozenset(
    (
        *("zero_optimization", "aio", "activation_checkpointing", "graph_harvesting", "data_types"),
        *("communication_data_type", "seq_parallel_communication_data_type", "sparse_gradients"),
        *("prescale_gradients", "gradient_predivide_factor", "gradient_accumulation_steps", "gradient_clipping"),
        *("train_batch_size", "train_micro_batch_size_per_gpu", "torch_autocast", "bf16", "bfloat16", "fp16"),
        *("wall_clock_breakdown", "memory_breakdown", "steps_per_print"),
        *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"),
    )
)
"""What a DeepSpeed file from outside may set; other sections write files, load modules or open connections."""


@dataclass(frozen=True)
class Place:
    """A value in a spec that points somewhere."""

    field: str
    value: str
    """As it was given."""
    target: str
    """The path or URL in it."""


@dataclass(frozen=True)
class Places:
    """What the specs of one project may name."""

    roots: tuple[Path, ...] | None
    """None: any path."""
    urls: tuple[str, ...] | None
    """What URLs may begin with; None: any."""
    closed: Path
    """The service's own folder."""
    own: Path
    """The project's uploaded files."""
    is_model: Callable[[Path], bool] = lambda path: False
    """Whether a resolved path is the export folder of one of the project's registered models."""

    @classmethod
    def of(cls, settings: Settings, store: Store, *, project: str) -> Self:
        """The rules for a project now."""
        strangers = store.keys.any() or not is_loopback(settings.host)
        roots, urls = settings.allowed_roots, settings.allowed_urls
        return cls(
            roots=() if roots is None and strangers else roots,
            urls=() if urls is None and strangers else urls,
            closed=settings.data_dir.resolve(),
            own=(settings.files_dir / project).resolve(),
            is_model=lambda path: _is_model(store, path, project=project),
        )

    @property
    def are_confined(self) -> bool:
        """Whether there is anything that a spec may not name."""
        return self.roots is not None

    def problems(self, spec: Mapping[str, Any]) -> list[SpecProblem]:
        """What is wrong with the places that a spec's raw values name; nothing but links has been looked at."""
        found = [
            SpecProblem(field=place.field, message=message, value=None if "@" in place.value else place.value)
            for place in places_in(spec)
            if (message := self.refusal(place.target)) is not None
        ]
        return found or [*self._cache_problems(spec), *self._deepspeed_problems(spec)]

    def _cache_problems(self, spec: Mapping[str, Any]) -> Iterator[SpecProblem]:
        """The cache is everybody's: one job must neither move it into data nor empty it for the others."""
        data = spec.get("data")
        cache = data.get("cache") if isinstance(data, Mapping) else None
        if not self.are_confined or not isinstance(cache, Mapping):
            return
        for name in ("path", "max_gb"):
            if (value := cache.get(name)) is not None:
                message = (
                    "the cache is shared by all projects; the operator sets it (ATTUNE_CACHE, ATTUNE_CACHE_MAX_GB)"
                )
                yield SpecProblem(field=f"data.cache.{name}", message=message, value=value)

    def refusal(self, target: str) -> str | None:
        """Why a path or URL may not be named; None if it may."""
        if "\0" in target:
            return "a path holds no zero character"
        if _URL.match(target):
            return self._url_refusal(target)
        return self._path_refusal(target)

    def _path_refusal(self, target: str) -> str | None:
        if self.roots is None:
            return None
        if not target.startswith("/"):
            return f"{target!r} is no absolute path"
        try:
            meant = _meant(target)
        except PatternError as error:
            return str(error)
        except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
            return f"{target!r} cannot be followed: {error}"
        return None if all(map(self._may_read, meant)) else self._outside(target)

    def _may_read(self, path: Path) -> bool:
        if path == self.own or self.own in path.parents:
            return True
        inside = any(root == path or root in path.parents for root in map(Path.resolve, self.roots or ()))
        if inside and path != self.closed and self.closed not in path.parents and path not in self.closed.parents:
            return True
        return self.is_model(path)

    def _outside(self, target: str) -> str:
        assert self.roots is not None
        named = ", ".join(map(str, self.roots)) or "there are none"
        return (
            f"{target!r} is not where data may lie: in files uploaded to the project, or below the folders that the "
            f"operator allows (ATTUNE_ALLOWED_ROOTS: {named}), links followed"
        )

    def _url_refusal(self, target: str) -> str | None:
        try:
            url = urlsplit(target)
            host, port = url.hostname, url.port
        except ValueError:
            return "this is no URL"
        if url.password is not None:
            return "a URL with a password would be stored with the job; give the service's environment the credentials"
        if "::" in url.scheme or "::" in target.partition("//")[0] or url.scheme.lower() in NEVER_URLS:
            return f"{target!r}: URLs of this kind are not read; use s3://, gs://, https:// or a path"
        if self.urls is None:
            return None
        if _climbs(target):
            return f"{target!r} leads out of its own folder"
        matching = [allowed for allowed in self.urls if _allows(allowed, url)]
        if not matching:
            named = ", ".join(self.urls) or "there are none"
            return f"{target!r} is none of the URLs that the operator allows (ATTUNE_ALLOWED_URLS: {named})"
        if url.scheme in ("http", "https") and all("*" in (urlsplit(allowed).netloc) for allowed in matching):
            return _private_refusal(target, host or "", port)
        return None

    def _deepspeed_problems(self, spec: Mapping[str, Any]) -> Iterator[SpecProblem]:
        """A file from outside may itself name files, modules and addresses."""
        parallel = spec.get("parallel")
        given = parallel.get("deepspeed_config") if isinstance(parallel, Mapping) else None
        if not self.are_confined or not isinstance(given, str):
            return
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # `resolve` says so
        field = "parallel.deepspeed_config"
        for name in sorted(set(content) - _DEEPSPEED_SECTIONS) if isinstance(content, dict) else ():
            yield SpecProblem(field=field, message=f"a file from outside may not set {name!r}", value=given)
        for name, value in _texts(content):
            if ("/" in value or name.endswith("path")) and value != "auto" and (why := self.refusal(value)):
                yield SpecProblem(field=field, message=f"{name}: {why}", value=given)


def _is_model(store: Store, path: Path, *, project: str) -> bool:
    """A model that a job made lies below the job's folder, which is named after it."""
    found = store.models.paths(project=project, jobs=path.parts)
    return any(Path(known).resolve() == path for known in found)


def places_in(spec: Mapping[str, Any]) -> Iterator[Place]:
    """Every path and URL that a raw spec names: all fields of `PATH_FIELDS`, bare data sources, files of class names,
    and local models."""
    for field, value in _texts({name: value for name, value in spec.items() if name != "metadata"}):
        last = field.rpartition(".")[2]
        if value.startswith(HUB_MODEL) and (
            "/../" in f"{value}/" or value.startswith((HUB_MODEL + "/", HUB_MODEL + "."))
        ):
            yield Place(field, value, value.removeprefix(HUB_MODEL))
        elif value.startswith("timm/") and ".." in value.split("/"):
            yield Place(field, value, value)
        elif value.startswith(LOCAL_MODEL):
            yield Place(field, value, value.removeprefix(LOCAL_MODEL))
        elif (
            last in PATH_FIELDS
            or _DATA_FIELD.fullmatch(field)
            or last == "class_names"
            and value not in published_class_names()
        ):
            yield Place(field, value, value)


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON values, under its dotted path."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{field}.{index}")


def _meant(target: str) -> set[Path]:
    """Where all that a path stands for lies, links followed: the path itself if there is one of that name, else the
    folder of every pattern that its braces make.

    Raises:
        PatternError: the braces make nothing that can be read.
    """
    whole = _resolved(target)
    if Path(target).exists():
        return {whole}
    patterns = [Path(pattern) for pattern in expanded(target)]
    if len(patterns) > _MAX_PATTERNS:
        raise PatternError(f"{target!r} stands for more than {_MAX_PATTERNS} files; name their folder, or use `*`")
    one_each = {pattern.parent: pattern for pattern in patterns}.values()
    # Of one folder's files only those differ that are links, folders or patterns.
    special = (path for path in patterns if _PATTERN_CHARACTER.search(path.name) or path.is_symlink() or path.is_dir())
    return {whole, *(_resolved(str(path)) for path in (*one_each, *special))}


def _climbs(target: str) -> bool:
    """Whether a URL leads up, as it is written, with its braces expanded, or with its percent signs decoded."""
    try:
        each = (*expanded(target), *expanded(unquote(unquote(target))))
    except PatternError:
        return True
    paths = [urlsplit(url).path for url in each]
    return any("\\" in url for url in each) or any(".." in path.split("/") or "%" in unquote(path) for path in paths)


def _resolved(target: str) -> Path:
    """The path with links followed; of a pattern such as `shards/{00..09}.tar`, the folder that all it means lie in."""
    path = Path(target)
    fixed = Path(path.anchor)
    for part in path.parts[len(fixed.parts) :]:
        if _PATTERN_CHARACTER.search(part) and not (fixed / part).exists():
            # What a pattern stands for could climb up again.
            return Path("/") if ".." in path.parts else fixed.resolve()
        fixed /= part
    return fixed.resolve()


def _allows(allowed: str, url: SplitResult) -> bool:
    wanted = urlsplit(allowed)
    if wanted.scheme.lower() != url.scheme.lower() or wanted.port != url.port:
        return False
    host, there = (wanted.hostname or "").lower(), (url.hostname or "").lower()
    same = there.endswith(host[1:]) and there != host[1:] if host.startswith("*.") else host in ("*", there)
    return same and (url.path or "/").startswith(wanted.path or "/")


def _private_refusal(target: str, host: str, port: int | None) -> str | None:
    """A host that the operator has not named himself must not lie in the service's own network."""
    try:
        answers = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{target!r}: the host {host!r} cannot be found: {error}"
    for *_, address in answers:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            return f"{target!r} is a host in a private network; ATTUNE_ALLOWED_URLS must name it for it to be read"
    return None

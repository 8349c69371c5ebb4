"""Where a spec may point: folders and URLs that the operator allows, and nothing of another project.

Without any API key, a service that only this machine can reach takes every path: whoever asks could read the files
anyway. Once there are keys, paths lie in the project's own uploaded files or below ATTUNE_ALLOWED_ROOTS, and URLs begin
as one of ATTUNE_ALLOWED_URLS. The raw values are looked at, before anything reads a file that they name; links are
followed first. The service's own folder is closed, even below an allowed root: it holds the other projects' data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dali_pipelines.patterns import PatternError
from service.jobs.places.named import places_in, texts
from service.jobs.places.paths import meant
from service.jobs.places.urls import url_refusal
from service.settings import Settings, is_loopback
from service.store.store import Store
from trainer.resolve import SpecProblem

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(?:::|://)")
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
            return url_refusal(target, allowed=self.urls)
        return self._path_refusal(target)

    def _path_refusal(self, target: str) -> str | None:
        if self.roots is None:
            return None
        if not target.startswith("/"):
            return f"{target!r} is no absolute path"
        try:
            where = meant(target)
        except PatternError as error:
            return str(error)
        except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
            return f"{target!r} cannot be followed: {error}"
        return None if all(map(self._may_read, where)) else self._outside(target)

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
        for name, value in texts(content):
            if ("/" in value or name.endswith("path")) and value != "auto" and (why := self.refusal(value)):
                yield SpecProblem(field=field, message=f"{name}: {why}", value=given)


def _is_model(store: Store, path: Path, *, project: str) -> bool:
    """A model that a job made lies below the job's folder, which is named after it."""
    found = store.models.paths(project=project, jobs=path.parts)
    return any(Path(known).resolve() == path for known in found)

"""Paths and URLs in specs stay where the operator allows, whatever they look like."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from service.jobs.places.named import PATH_FIELDS, places_in
from service.jobs.places.rules import Places
from trainer.prompts import published_class_names
from trainer.resolve import SpecError, resolve
from trainer.spec import JobSpec

NO_PATHS = frozenset(
    (
        *("recipe", "metric", "classes", "class_names", "templates", "freeze", "lock_patterns", "targets", "domains"),
        *("split", "name", "tower", "encoding", "separator", "metadata", "compat"),
        *("caption_key", "label_key", "domain_key"),
    )
)
"""Fields of text that names no file; models and class names that do are known by their values."""


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """`data/` with the service's folder `data/attune/` in it, and `secret/` elsewhere."""
    for folder in ("data/flowers", "data/attune/files/ours/file-1", "data/attune/files/theirs/file-2", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/link").symlink_to(tmp_path / "secret")
    return tmp_path


@pytest.fixture
def places(rooms: Path) -> Places:
    return confined(rooms)


def confined(rooms: Path, *, urls: tuple[str, ...] = (), models: tuple[Path, ...] = ()) -> Places:
    closed = rooms / "data/attune"
    own, is_model = closed / "files/ours", models.__contains__
    return Places(roots=(rooms / "data",), urls=urls, closed=closed, own=own, is_model=is_model)


def refused(places: Places, **spec: Any) -> list[str]:
    return [problem.field for problem in places.problems(spec)]


def test_allowed_roots_and_the_projects_own_files(places: Places, rooms: Path) -> None:
    assert not refused(
        places, data={"train": str(rooms / "data/flowers"), "validation": {"path": f"{rooms}/data/x.csv"}}
    )
    assert not refused(places, data={"train": str(rooms / "data/attune/files/ours/file-1")})
    assert not refused(places, data={"train": f"{rooms}/data/shards/{{00..09}}-*.tar"})


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{0}/secret",
        "{0}/data/../secret",
        "{0}/data/link",
        "{0}/data/link/deeper/still",
        "{0}/data/flowers/../link",
        "{0}/data/{{a,../../secret}}",
        "{0}/data/*/../../secret/x.tar",
        "{0}/data/attune",
        "{0}/data/attune/attune.db",
        "{0}/data/attune/jobs/ftjob-1/export",
        "{0}/data/attune/files/theirs/file-2",
        "{0}/data/attune/files/ours/../theirs/file-2",
        "{0}/data",
        "{0}/data2",
        "flowers",
        "~/.ssh",
        "../secret",
        "{0}/data/\0",
    ],
)
def test_what_is_elsewhere_is_refused(places: Places, rooms: Path, path: str) -> None:
    path = path.format(rooms)
    assert refused(places, data={"train": path}) == ["data.train"]
    assert refused(places, model={"name": f"local-dir:{path}"}) == ["model.name"]


@pytest.mark.parametrize(
    "path",
    [
        "{0}/data/attune/files/ours/{{x,..}}/theirs/*/content/*.tar",
        "{0}/data/attune/files/ours/{{x,../theirs/*/content/*.tar}}",
        "{0}/data/attune/files/ours/{{x,..}}/{{x,..}}/{{x,..}}/{{x,..}}/secret/*",
        "{0}/data/{{x,../data/attune/jobs/**/*.parquet}}",
        "{0}/data/{{flowers,attune/files/theirs/file-2}}/x.tar",
        "{0}/data/{{flowers,link}}/x.tar",
        "{0}/data/{{flowers,link}}",
        "{0}/data/{{.,x}}{{.,y}}/secret/x.tar",
        "{0}/data/shards/{{0..999999}}.tar",
    ],
)
def test_braces_lead_nowhere_else(places: Places, rooms: Path, path: str) -> None:
    assert refused(places, data={"train": path.format(rooms)}) == ["data.train"]


@pytest.mark.parametrize(
    "url",
    [
        "https://data.example.org/ds/{a,../private}/x.tar",
        "https://data.example.org/ds/%2e%2e/private",
        "https://data.example.org/ds/%252e%252e/private",
        "https://data.example.org/ds/{a,%2e}%2e/private",
        "https://data.example.org:99999/ds/x",
        "https://data.example.org:x/ds/x",
        "s3://bucket/a/{x,..%2f}y",
        "s3://bucket/a/{x,..}/other",
    ],
)
def test_urls_lead_nowhere_else(rooms: Path, url: str) -> None:
    allowing = confined(rooms, urls=("https://data.example.org/ds/", "s3://bucket/a/"))
    assert refused(allowing, data={"train": url}) == ["data.train"]
    assert not refused(allowing, data={"train": "https://data.example.org/ds/a%20b/{00..09}.tar?key=a%2Fb"})


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("model.text.tower", {"model": {"text": {"tower": "hf-hub:/etc"}}}),
        ("model.text.tower", {"model": {"text": {"tower": "hf-hub:../../x"}}}),
        ("model.text.tower", {"model": {"text": {"tower": "hf-hub:a/../../x"}}}),
        ("objective.teacher.text.tower", {"objective": {"teacher": {"text": {"tower": "hf-hub:/etc"}}}}),
        ("model.image.tower", {"model": {"image": {"tower": "timm/vit_tiny_patch16_224.x/../../secret"}}}),
    ],
)
def test_names_of_the_hub_are_no_paths(places: Places, field: str, spec: dict[str, Any]) -> None:
    assert refused(places, **spec) == [field]


def test_one_job_cannot_change_the_cache_of_all(places: Places, rooms: Path) -> None:
    assert refused(places, data={"cache": {"max_gb": 0.000001}}) == ["data.cache.max_gb"]
    assert refused(places, data={"cache": {"path": f"{rooms}/data/flowers"}}) == ["data.cache.path"]
    free = Places(roots=None, urls=None, closed=rooms / "data/attune", own=rooms / "data/attune/files/default")
    assert not refused(free, data={"cache": {"max_gb": 1, "path": "/x"}})


def test_a_loop_of_links_is_refused(places: Places, rooms: Path) -> None:
    (rooms / "data/a").symlink_to(rooms / "data/b")
    (rooms / "data/b").symlink_to(rooms / "data/a")
    assert refused(places, data={"train": str(rooms / "data/a/x")}) == ["data.train"]


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("data.train.path", {"data": {"train": {"path": "/x"}}}),
        ("data.train", {"data": {"train": "/x"}}),
        ("data.train.0", {"data": {"train": ["/x"]}}),
        ("data.train.1.path", {"data": {"train": [{"path": "{0}/data/flowers"}, {"path": "/x"}]}}),
        ("data.train.sources.0", {"data": {"train": {"sources": ["/x"]}}}),
        ("data.train.sources.0.images_root", {"data": {"train": {"sources": [{"images_root": "/x"}]}}}),
        ("data.train.class_names", {"data": {"train": {"class_names": "/x/names.txt"}}}),
        ("data.evaluate.shifted", {"data": {"evaluate": {"shifted": "/x"}}}),
        ("data.cache.path", {"data": {"cache": {"path": "/x"}}}),
        ("parallel.nvme_path", {"parallel": {"nvme_path": "/x"}}),
        ("parallel.deepspeed_config", {"parallel": {"deepspeed_config": "/x.json"}}),
        ("model", {"model": "local-dir:/x"}),
        ("model.text.tower", {"model": {"text": {"tower": "local-dir:/x"}}}),
        ("objective.teacher.name", {"objective": {"teacher": {"name": "local-dir:/x"}}}),
        ("objective.teacher.text.tower", {"objective": {"teacher": {"text": {"tower": "local-dir:/x"}}}}),
    ],
)
def test_every_field_that_points_somewhere_is_looked_at(
    places: Places, rooms: Path, field: str, spec: dict[str, Any]
) -> None:
    filled = json.loads(json.dumps(spec).replace("{0}", str(rooms)))
    assert refused(places, **filled) == [field]


def test_published_class_names_notes_and_hub_models_are_no_paths(places: Places) -> None:
    names = next(iter(published_class_names()))
    assert not refused(places, data={"train": {"class_names": names}}, metadata={"path": "/x"})
    assert not refused(places, model={"name": "hf-hub:ORG/NAME"}, objective={"teacher": "ViT-B-32/openai"})


def test_no_text_field_of_a_spec_is_forgotten() -> None:
    found = {name for name in text_fields(JobSpec) if not name.endswith("_column")}
    assert found > PATH_FIELDS
    assert found - PATH_FIELDS - NO_PATHS == {"evaluate"}  # whose keys are text


def text_fields(model: type[BaseModel], seen: set[type] | None = None) -> Iterator[str]:
    """The names of all fields below a model that take text of any kind."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        for part in parts(field.annotation):
            if part is str:
                yield name
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from text_fields(part, seen)


def parts(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Literal:
        return
    if origin in (Union, types.UnionType) or origin is not None:
        for argument in get_args(annotation):
            yield from parts(argument)
    else:
        yield annotation


def test_registered_models_of_the_project_can_be_started_from(rooms: Path) -> None:
    export = rooms / "data/attune/jobs/ftjob-1/export"
    export.mkdir(parents=True)
    spec = {"model": {"name": f"local-dir:{export}"}}
    assert refused(confined(rooms), **spec) == ["model.name"]
    assert not refused(confined(rooms, models=(export,)), **spec)


def test_without_roots_every_path_goes_but_no_url_of_a_file_or_with_a_password(rooms: Path) -> None:
    free = Places(roots=None, urls=None, closed=rooms / "data/attune", own=rooms / "data/attune/files/default")
    assert not refused(free, data={"train": "/etc", "validation": "s3://bucket/x"})
    assert refused(free, data={"train": "file:///etc"}) == ["data.train"]
    assert refused(free, data={"train": "simplecache::file:///etc"}) == ["data.train"]
    problem = free.problems({"data": {"train": "https://me:hunter2hunter2@example.org/x.tar"}})[0]
    assert problem.field == "data.train"
    assert "hunter2" not in repr(problem)


URLS = ("s3://bucket/", "https://data.example.org/open/", "https://*.example.com/", "http://127.0.0.1:9000/")


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/shards/{00..99}.tar",
        "https://data.example.org/open/x.csv",
        "HTTPS://Data.Example.org/open/x.csv",
        "http://127.0.0.1:9000/x.tar",
    ],
)
def test_urls_that_begin_as_allowed_ones(rooms: Path, url: str) -> None:
    assert not refused(confined(rooms, urls=URLS), data={"train": url})


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket2/x",
        "gs://bucket/x",
        "https://data.example.org/openly/x",
        "https://data.example.org/open/../private/x",
        "https://data.example.org.evil.net/open/x",
        "https://data.example.org@evil.net/open/x",
        "http://data.example.org/open/x",
        "https://data.example.org:8443/open/x",
        "http://127.0.0.1:9001/x",
        "http://169.254.169.254/latest/meta-data/",
        "https://example.com/x",
        "file:///etc/passwd",
        "memory://x",
        "simplecache::https://data.example.org/open/x",
    ],
)
def test_other_urls_are_refused(rooms: Path, url: str) -> None:
    assert refused(confined(rooms, urls=URLS), data={"train": url}) == ["data.train"]


def test_a_name_behind_a_star_must_not_lie_in_a_private_network(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"public.example.com": "93.184.216.34", "inside.example.com": "10.0.0.7", "six.example.com": "::1"}
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda host, port, **_: [(2, 1, 6, "", (addresses[host], port))] if host else []
    )
    places = confined(rooms, urls=URLS)
    assert not refused(places, data={"train": "https://public.example.com/x"})
    assert "private network" in places.problems({"data": {"train": "https://inside.example.com/x"}})[0].message
    assert refused(places, data={"train": "https://six.example.com/x"}) == ["data.train"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"tensorboard": {"enabled": True, "output_path": "/etc"}}, "tensorboard"),
        ({"compile": {"backend": "os.system"}}, "compile"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"nvme_path": "/etc"}}}, "nvme_path"),
    ],
)
def test_a_deepspeed_file_from_outside_opens_no_back_door(
    places: Places, rooms: Path, content: dict[str, Any], named: str
) -> None:
    path = rooms / "data/flowers/ds.json"
    path.write_text(json.dumps(content))
    problem = places.problems({"parallel": {"deepspeed_config": str(path)}})[0]
    assert named in problem.message
    path.write_text(json.dumps({"zero_optimization": {"stage": 2, "overlap_comm": True}, "bf16": {"enabled": "auto"}}))
    assert not refused(places, parallel={"deepspeed_config": str(path)})


def test_nothing_is_read_before_it_is_allowed(places: Places, rooms: Path) -> None:
    """A model's configuration is read to check a spec: what it says must not come back from a closed folder."""
    (rooms / "secret/open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 31337}}')
    spec = {
        "model": f"local-dir:{rooms}/secret",
        "objective": {"name": "distillation", "teacher": "ViT-B-32/openai"},
        "data": {"train": str(rooms / "data/flowers")},
    }
    with pytest.raises(SpecError) as caught:
        resolve(spec=spec, guard=places.problems)
    assert [problem.field for problem in caught.value.problems] == ["model.name"]
    assert "31337" not in str(caught.value)


def test_places_are_found_at_any_depth() -> None:
    spec = {"data": {"train": {"sources": [{"path": "a"}, "b"]}, "evaluate": {"x": {"images_root": "c"}}}}
    assert [(place.field, place.target) for place in places_in(spec)] == [
        ("data.train.sources.0.path", "a"),
        ("data.train.sources.1", "b"),
        ("data.evaluate.x.images_root", "c"),
    ]

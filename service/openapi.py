"""The OpenAPI description: FastAPI's own, with the JobSpec that request bodies refer to."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from trainer.spec import JobSpec

DESCRIPTION = """
Fine-tunes, evaluates and serves CLIP-family models. The fine-tuning endpoints have OpenAI's shapes: its official
Python client works with `base_url=".../v1"` and takes `recipe` and `spec` in `extra_body`.

Errors are `{"error": {"message", "type", "param", "code"}}`; `param` is the dotted path of the field at fault.
"""


def describe_with_spec(app: FastAPI) -> None:
    """Have `app.openapi()` also hold the schema of JobSpec and its parts."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made_by_fastapi()
            spec = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = spec.pop("$defs")
            schema["components"]["schemas"] = {**parts, "JobSpec": spec, **schema["components"]["schemas"]}
            _describe_refusals(schema)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _describe_refusals(schema: dict[str, Any]) -> None:
    """Say of every operation below /v1 that its other refusals have the same shape: no key, too many requests, an
    `after` that is unknown, a body that is too large."""
    refusal = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values() if path.startswith("/v1/") else ():
            described = {"description": "Refused; `error.code` says why.", "content": {"application/json": refusal}}
            operation["responses"].setdefault("4XX", described)

"""Answers that are put into JSON by the thread that has found them.

FastAPI would look at a handler's answer once more in another thread, and write the JSON where all requests wait for it.
On a busy machine each change of threads takes longer than a look at a job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from service.store.store import Store


async def read(store: Store, find: Callable[[], Response], *, is_short: bool = True) -> Response:
    """The answer that `find` makes from the store: at once if it reads a few rows and waits for nobody, else in a
    thread."""
    return find() if is_short and store.database.reads_at_once else await run_in_threadpool(find)


def answered(found: BaseModel) -> Response:
    """The answer 200 with `found` as its JSON body. The route names the shape to FastAPI as its `response_model`."""
    return json_answer(found.model_dump_json().encode())


def json_answer(body: bytes, *, headers: Mapping[str, str] | None = None) -> Response:
    """The same from what is JSON already, with further headers."""
    return Response(body, media_type="application/json", headers=headers)

"""A control plane to be killed: loads a model, prints its worker's process id and waits. Arguments: FOLDER STATE."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from service.inference.gateway import Gateway
from service.settings import Settings
from service.store.records import ModelRecord

WORKER = (sys.executable, str(Path(__file__).with_name("plain_worker.py")))


async def main(folder: Path, state: str) -> None:
    gateway = Gateway(Settings(data_dir=folder), command=WORKER)
    path = "endless" if state == "loading" else "anywhere"
    model = ModelRecord(id="a-model", path=path, task="clip", created_at=0.0)
    if state != "loading":
        await gateway.embed(model, ["hello"])
    asking = asyncio.create_task(gateway.embed(model, ["hello" if state == "idle" else "sleep 60"]))
    while not (gateway.pool.workers and gateway.pool.workers["a-model"].pid):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)  # until the worker listens
    print(gateway.pool.workers["a-model"].pid, flush=True)
    await asking
    await asyncio.sleep(60)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

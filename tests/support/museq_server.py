"""Serves a diffusers pipeline by museq's own images endpoint: an OpenAI-compatible server that nobody here wrote.

Run by museq's own environment: `museq_server.py PIPELINE PORT`. Says `ready` on stdout as soon as it listens.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from muse.core.registry import ModalityRegistry
from muse.core.server import create_app
from muse.modalities import image_generation
from muse.modalities.image_generation.runtimes.diffusers import DiffusersText2ImageModel


async def main(pipeline: str, port: int) -> None:
    model = DiffusersText2ImageModel(
        hf_repo=pipeline, local_dir=pipeline, device="cpu", dtype="float32", model_id="tiny", default_size=(64, 64)
    )
    registry = ModalityRegistry()
    registry.register(image_generation.MODALITY, model, manifest={"model_id": "tiny", "capabilities": {}})
    app = create_app(registry=registry, routers={image_generation.MODALITY: image_generation.build_router(registry)})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

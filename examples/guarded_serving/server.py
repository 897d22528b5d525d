"""Serve embeddings of all-MiniLM-L6-v2 from weights that are verified when loaded and guarded while in use.

    python server.py MODEL_FOLDER --manifest manifest.json --port 8000

``POST /embed`` with ``{"texts": [...]}`` answers embeddings, or 503 if the weights in memory are no longer
those of the manifest. ``GET /health`` tells what the guard knows, ``GET /metrics`` is for Prometheus. With
``--debug``, ``POST /debug/flip`` flips a bit of the live weights, and ``POST /debug/reload`` loads them
again.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import prometheus_client
import torch
import uvicorn
from bert import MiniLM, Tokenizer
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

import integrity_triton as it
from integrity_triton.models.guard import PrometheusMetrics


class Texts(BaseModel):
    texts: list[str] = Field(min_length=1, max_length=64)


def load(model: MiniLM, folder: Path, manifest: it.models.Manifest) -> None:
    """Fill the model with weights whose bytes in memory were found to be those of the manifest."""
    model.load_state_dict(it.models.load_verified(folder / "model.safetensors", against=manifest))


def build(folder: Path, manifest: it.models.Manifest, period: float | None, debug: bool) -> FastAPI:
    registry = prometheus_client.CollectorRegistry()
    model, tokenizer = MiniLM().eval(), Tokenizer(folder / "vocab.txt")
    load(model, folder, manifest)
    # The model is compared with the manifest once more, since load_state_dict copies what was verified.
    guard = it.models.Guard(
        model, against=manifest, period=period, metrics=PrometheusMetrics(registry), name="minilm"
    )
    app = FastAPI(title="Guarded embeddings")

    def refuse_if_damaged() -> None:
        status = guard.status()
        if not status.ok:
            raise HTTPException(503, {"error": str(status), "findings": [str(f) for f in status.findings]})

    @app.post("/embed")
    def embed(texts: Texts) -> dict[str, Any]:
        refuse_if_damaged()
        with torch.inference_mode():
            embeddings = model(*tokenizer(texts.texts)).tolist()
        refuse_if_damaged()  # damage that was noticed meanwhile may be in the answer
        return {"embeddings": embeddings}

    @app.get("/health")
    def health(response: Response) -> dict[str, Any]:
        status = guard.status()
        response.status_code = 200 if status.ok else 503
        return status.to_dict()

    @app.get("/metrics")
    def metrics() -> Response:
        text = prometheus_client.generate_latest(registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    if debug:

        @app.post("/debug/flip")
        def flip() -> dict[str, Any]:
            """Flip a random bit of the live weights, as a fault of the memory would."""
            weights = dict(model.named_parameters())
            (name,) = random.choices(list(weights), [x.nbytes for x in weights.values()])
            data = weights[name].detach().view(-1).view(torch.uint8)
            byte, bit = random.randrange(data.numel()), random.randrange(8)
            data[byte] ^= 1 << bit
            return {"tensor": name, "byte": byte, "bit": bit}

        @app.post("/debug/reload")
        def reload() -> dict[str, Any]:
            """Load the weights again; the update is declared, and has to match the manifest."""
            with guard.updating():
                load(model, folder, manifest)
            guard.reset()
            return guard.status().to_dict()

    return app


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--period", type=float, help="seconds within which every byte is checked again")
    parser.add_argument("--debug", action="store_true", help="let clients flip bits and reload the weights")
    given = parser.parse_args()
    manifest = it.models.Manifest.load(given.manifest)
    try:
        app = build(given.folder, manifest, given.period, given.debug)
    except it.IntegrityError as error:
        raise SystemExit(f"not serving: {error}") from None
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What people write when they serve embeddings: FastAPI, sentence-transformers, torch's dynamic int8; a peer of serve.py.

    serve_fastapi.py MODEL PORT

A request is one encode() in the thread pool.
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
supported = torch.backends.quantized.supported_engines
torch.backends.quantized.engine = next(name for name in ("x86", "onednn", "fbgemm", "qnnpack") if name in supported)
model = SentenceTransformer(sys.argv[1], device="cpu").eval()
torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
app = FastAPI()


class Request(BaseModel):
    model: str
    input: str | list[str]


def encode(texts):
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()


@app.post("/v1/embeddings")
async def embeddings(request: Request):
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = await run_in_threadpool(encode, texts)
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": request.model}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")

"""`bitmill serve`: the endpoints of systems A, C and D field by field, and clients that know nothing of bitmill."""

import base64
import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import encoders
import numpy as np
import pytest
from service import Service

TEXTS = ["a quick brown fox", "jumps over the lazy dog", "Retrieval needs vectors."]


def put_tokenizer(folder, first=4):
    """Letters of the alphabet, with the special tokens of the family where it wants them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {token: i for i, token in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps({
        "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}}))


def put_model(folder, family, labels=None, hidden=64, layers=2):
    encoders.make_model(family, hidden, 4, 2 * hidden, layers=layers, labels=labels).save_pretrained(folder)
    put_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def minilm_copy(minilm, memory_folder):
    """MiniLM in a folder that may be written."""
    folder = memory_folder / "serve" / "all-MiniLM-L6-v2"
    shutil.copytree(minilm, folder)
    yield folder
    shutil.rmtree(folder.parent)


@pytest.fixture(scope="module")
def reranker(memory_folder):
    folder = put_model(memory_folder / "serve-reranker", "xlm-roberta", labels=1)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(bitmill_path, minilm_copy, reranker):
    with Service(bitmill_path, "--embeddings", minilm_copy, "--reranker", f"ranker={reranker}") as one:
        yield one
    assert one.process.returncode == 0


@pytest.fixture(scope="module")
def vectors(bitmill, minilm_copy, server, tmp_path_factory):
    """What `bitmill embed` makes of TEXTS at the level that the server has."""
    out = tmp_path_factory.mktemp("vectors") / "v.npy"
    bitmill("embed", minilm_copy, *TEXTS, "--level", "int8", "--activation", "dynamic-int8", "--npy", out)
    return np.load(out)


# ---- system C: what an operator sees ---------------------------------------------------------------------------


def test_log_lines(server):
    text = "\n".join(server.lines)
    for line in ("Using int8 quantization for embeddings", "Applied dynamic int8 quantization (CPU)",
                 "Using int8 quantization for reranker", "Applied dynamic int8 quantization to reranker (CPU)",
                 "Effective configuration: "):
        assert re.search(rf" INFO {re.escape(line)}", text), text


@pytest.mark.parametrize("variables, level", [
    ({"USE_QUANTIZATION": "false"}, "original"),
    ({"USE_QUANTIZATION": "true", "QUANTIZATION_CONFIG": "none"}, "original"),
    ({"USE_QUANTIZATION": "False", "QUANTIZATION_CONFIG": "int8"}, "original"),
    ({"QUANTIZATION_CONFIG": "int4"}, "int4"),
    ({"QUANTIZATION_CONFIG": "fp16"}, "fp16"),
])
def test_variables_choose_the_level(bitmill_path, reranker, variables, level):
    with Service(bitmill_path, "--reranker", reranker, env=variables) as one:
        _, headers, _ = one.ask("POST", "/rerank", {"query": "a", "texts": ["b"]})
        assert headers["X-Bitmill-Level"] == level


def test_env_files(bitmill, bitmill_path, reranker, tmp_path):
    (tmp_path / ".env.local").write_text("# a comment\nexport USE_QUANTIZATION=true\nQUANTIZATION_CONFIG='int4' # why\n")
    with Service(bitmill_path, "--reranker", reranker, cwd=tmp_path) as one:
        assert one.get("/info")[1]["models"] == [{"name": reranker.name, "level": "int4"}]
    with Service(bitmill_path, "--reranker", reranker, cwd=tmp_path, env={"QUANTIZATION_CONFIG": "int8"}) as one:
        assert one.get("/info")[1]["models"] == [{"name": reranker.name, "level": "int8"}]
    (tmp_path / "bad").write_text("FINE=1\nnonsense\n")
    refused = bitmill("serve", "--reranker", reranker, "--env-file", tmp_path / "bad", code=3)
    assert "line 2" in refused.err
    refused = bitmill("serve", "--reranker", reranker, env={"QUANTIZATION_CONFIG": "int5"}, code=2)
    assert "QUANTIZATION_CONFIG is 'int5'" in refused.err and "int8, int4" in refused.err
    refused = bitmill("serve", "--reranker", reranker, env={"QUANTIZE_MEMORY_TIGHT": "75%"}, code=2)
    assert "QUANTIZE_MEMORY_TIGHT" in refused.err


def test_beyond_this_machine_a_token_is_needed(bitmill, bitmill_path, reranker, tmp_path):
    refused = bitmill("serve", "--reranker", reranker, "--host", "0.0.0.0", "--port", "0", code=2)
    assert "token" in refused.err
    (tmp_path / "token").write_text("secret\n")
    with Service(bitmill_path, "--reranker", reranker, "--host", "0.0.0.0", "--token-file", tmp_path / "token") as one:
        for path in "/info", "/metrics", "/v1/models", "/models/active", "/api/v1/quantization/status", "/openapi.json":
            assert one.ask("GET", path)[0] == 401
            assert one.ask("GET", path, headers={"Authorization": "Bearer secrets"})[0] == 401
            assert one.ask("GET", path, headers={"Authorization": "Bearer secret"})[0] == 200
        for path in "/", "/health", "/healthz":
            assert one.ask("GET", path)[0] == 200


# ---- inference as its clients ask for it -----------------------------------------------------------------------


def test_openai_client(server, vectors):
    import openai

    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
    answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)  # asks for base64
    got = np.array([one.embedding for one in answer.data], dtype=np.float32)
    assert np.array_equal(got, vectors)
    assert [one.index for one in answer.data] == [0, 1, 2] and answer.model == "all-MiniLM-L6-v2"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10
    answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS[0], encoding_format="float")
    assert np.array_equal(np.array(answer.data[0].embedding, dtype=np.float32), vectors[0])
    assert {one.id for one in client.models.list()} == {"all-MiniLM-L6-v2", "ranker"}
    assert client.models.retrieve("ranker").id == "ranker"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.embeddings.create(model="all-MiniLM-L6-v2", input=[[1, 2]])


def test_tei_client(server, vectors):
    status, got = server.post("/embed", {"inputs": TEXTS})
    assert status == 200 and np.array_equal(np.array(got, dtype=np.float32), vectors)
    assert server.post("/embed", {"inputs": TEXTS[0]})[1] == [got[0]]
    status, ranked = server.post("/rerank", {"query": "abc", "texts": ["xyz", "abc", "a b"], "return_text": True})
    assert status == 200 and sorted(one["index"] for one in ranked) == [0, 1, 2]
    assert [one["score"] for one in ranked] == sorted((one["score"] for one in ranked), reverse=True)
    assert all(one["text"] == ["xyz", "abc", "a b"][one["index"]] for one in ranked)
    raw = server.post("/rerank", {"query": "abc", "texts": ["xyz", "abc", "a b"], "raw_scores": True})[1]
    assert np.allclose([1 / (1 + np.exp(-one["score"])) for one in raw], [one["score"] for one in ranked], atol=1e-6)
    status, wrong = server.post("/embed", {"inputs": "word " * 1000})
    assert status == 413 and "tokens" in wrong["error"] and wrong["error_type"] == "Validation"
    assert server.post("/embed", {"inputs": "word " * 1000, "truncate": True})[0] == 200
    assert server.get("/info")[1]["model_id"] == "all-MiniLM-L6-v2"
    assert server.get("/health")[0] == 200


def test_predict_takes_texts_and_pairs(server):
    """In the forms of text-embeddings-inference: two texts by themselves are a pair."""
    def predict(inputs):
        status, found = server.post("/predict", {"inputs": inputs})
        assert status == 200, found
        return found

    one, pair = predict("abc"), predict(["abc", "a b"])
    assert [list(entry) for entry in one + pair] == [["score", "label"]] * 2
    assert predict(["abc"]) == one != pair
    assert predict([["abc"], ["abc"], ["abc"]]) == [one] * 3
    assert predict([["abc", "a b"], ["abc", "xyz"]])[0] == pair
    # A reranker is one that classifies pairs.
    assert server.post("/rerank", {"query": "abc", "texts": ["a b"]})[1][0]["score"] == pair[0]["score"]
    for wrong in ["a", "b", "c"], [["a"], ["b", "c"]], [["a", "b", "c"]], [[]], [], [1, 2], {"a": "b"}, None:
        assert server.post("/predict", {"inputs": wrong})[0] == 422, wrong


def test_a_request_of_too_many_tokens(server):
    """They are counted as the model would see them, so a long body is no long request by itself."""
    long = "word " * 400
    status, refused = server.post("/v1/embeddings", {"input": [long] * 1200})
    assert status == 400 and "more than 300000 tokens" in refused["error"]["message"]
    assert server.post("/embed", {"inputs": [long] * 1200, "truncate": True})[0] == 413
    assert server.post("/embed", {"inputs": long * 50, "truncate": True})[0] == 200


def test_huggingface_client(server, vectors):
    """In a process of its own: this one tells it that there is no network at all."""
    code = ("import json, sys; from huggingface_hub import InferenceClient; "
            "print(json.dumps(InferenceClient(base_url=sys.argv[1]).feature_extraction(sys.argv[2]).tolist()))")
    done = subprocess.run([sys.executable, "-c", code, server.url, TEXTS[1]], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "HF_HUB_OFFLINE": "0"})
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.array(json.loads(done.stdout), dtype=np.float32).reshape(-1), vectors[1])


def test_the_same_bits_in_any_company(server, vectors):
    """EXACT: sixty-four requests at once, which run in batches of many shapes."""
    def ask(i):
        return server.post("/v1/embeddings", {"input": [TEXTS[i % 3]] + ["filler " * (i % 7)] * (i % 3),
                                              "encoding_format": "base64"})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for i, (status, body) in enumerate(pool.map(ask, range(64))):
            assert status == 200, body
            got = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), dtype="<f4")
            assert np.array_equal(got, vectors[i % 3])


@pytest.mark.parametrize("path, body, status", [
    ("/v1/embeddings", b"{", 400), ("/v1/embeddings", b"[]", 400), ("/v1/embeddings", b'{"input": 1}', 400),
    ("/v1/embeddings", b'{"input": []}', 400), ("/v1/embeddings", b'{"input": "a", "dimensions": 8}', 400),
    ("/v1/embeddings", b'{"input": "a", "encoding_format": "hex"}', 400),
    ("/v1/embeddings", b'{"input": ["a", null]}', 400), ("/v1/embeddings", b'{"input": "a", "input": "b"}', 400),
    ("/v1/embeddings", b'{"input": "\xff"}', 400), ("/v1/embeddings", b"[" * 5000, 400),
    ("/embed", b'{"inputs": {}}', 422), ("/embed", b'{"inputs": "a", "truncate": 1}', 422),
    ("/embed", b'{"inputs": "a", "prompt_name": "none such"}', 413), ("/rerank", b'{"query": "a"}', 422),
    ("/rerank", b'{"texts": ["a"]}', 422), ("/models/quantize", b"{}", 422), ("/models/quantize", b"nope", 400),
    ("/api/v1/quantization/calculate", b'{"model_size_params": "7"}', 422),
    ("/api/v1/quantization/calculate", b'{"model_size_params": -7}', 422),
])
def test_bad_bodies(server, path, body, status):
    code, _, text = server.ask("POST", path, body)
    assert code == status, text
    assert isinstance(json.loads(text), dict) and "/dev/shm" not in text and "/tmp" not in text


# ---- system A --------------------------------------------------------------------------------------------------


@pytest.fixture
def root(memory_folder):
    folder = memory_folder / "registry"
    for name, family in ("roberta-base", "roberta"), ("xlm-roberta-base", "xlm-roberta"):
        put_model(folder / name, family, hidden=256, layers=4)
    yield folder
    shutil.rmtree(folder)


def test_quantize(bitmill_path, root):
    with Service(bitmill_path, "--models", root) as server:
        status, active = server.get("/models/active")
        assert status == 200 and set(active) == {"roberta", "xlm-roberta"}
        assert active["roberta"]["status"] == "active"
        assert active["roberta"]["metadata"] == {"model_name": "roberta-base", "is_quantized": False}
        status, done = server.post("/models/quantize", {"model_type": "roberta"})
        assert status == 200 and done["status"] == "success" and done["is_quantized"] is True
        assert done["message"] == "Successfully quantized roberta-base model"
        status, again = server.post("/models/quantize", {"model_type": "roberta"})
        assert status == 200 and again["message"] == "Model roberta-base is already quantized"
        assert again["already_quantized"] is True
        status, wrong = server.post("/models/quantize", {"model_type": "gpt-17"})
        assert (status, wrong["status"]) == (404, "error")
        assert wrong["message"] == "Model gpt-17 not found or not supported for quantization"
        assert server.get("/models/active")[1]["roberta"]["metadata"]["is_quantized"] is True
        data = json.loads((root / "roberta-base" / "metadata.json").read_text())
        assert data["model_type"] == "roberta" and data["dimensions"] == 256 and data["is_quantized"] is True
        # The new level serves without a new start.
        sizes = {one["name"]: one["level_sizes_mb"] for one in server.get("/api/v1/quantization/status")[1]["models"]}
        assert {"int8", "int4"} <= set(sizes["roberta-base"]) and "int8" not in sizes["xlm-roberta-base"]


def test_sixty_four_calls_are_one_job(bitmill_path, root):
    with Service(bitmill_path, "--models", root) as server, concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: server.post("/models/quantize", {"model_type": "roberta"}), range(64)))
        assert {status for status, _ in answers} == {200}
        assert {body["message"] for _, body in answers} <= {"Successfully quantized roberta-base model",
                                                             "Model roberta-base is already quantized"}
        assert len({body["quantization"]["job_id"] for _, body in answers}) == 1
        log = "\n".join(server.lines)
        assert log.count("Successfully quantized roberta-base model") == 1


def test_jobs_without_waiting(bitmill_path, root):
    with Service(bitmill_path, "--models", root) as server:
        status, begun = server.post("/models/quantize", {"model_type": "xlm-roberta", "wait": False})
        assert status == 202 and begun["status"] == "accepted"
        done = server.wait_for(lambda: (one := server.get(f"/models/jobs/{begun['job_id']}")[1])["state"] == "done" and one)
        assert done["result"]["message"] == "Successfully quantized xlm-roberta-base model"
        assert done["done_bytes"] == done["total_bytes"] > 0
        assert [one["job_id"] for one in server.get("/models/jobs")[1]["jobs"]] == [begun["job_id"]]
        assert server.get("/models/jobs/none")[0] == 404


def test_killed_in_the_middle(bitmill_path, root):
    """No partial model is served, and the next start goes on."""
    target = root / "roberta-base" / "int8"
    for delay in 0.0, 0.02, 0.05, 0.1:
        shutil.rmtree(target, ignore_errors=True)
        with Service(bitmill_path, "--models", root) as server:
            server.post("/models/quantize", {"model_type": "roberta", "wait": False})
            if delay:
                server.process.wait(0) if server.process.poll() is not None else __import__("time").sleep(delay)
            server.stop(signal.SIGKILL)
        with Service(bitmill_path, "--models", root) as server:
            assert not target.exists() or (target / "manifest.json").exists()
            status, done = server.post("/models/quantize", {"model_type": "roberta"})
            assert status == 200, done
    assert not list(root.glob("*/*partial*"))


# ---- system D --------------------------------------------------------------------------------------------------


def test_manager_endpoints(server):
    server.post("/v1/embeddings", {"input": "warm"})
    base = "/api/v1/quantization/"
    status, one = server.get(base + "status")
    assert status == 200 and one["device"] == "cpu" and isinstance(one["active_requests"], int)
    memory = one["memory"]
    assert set(memory) >= {"total_gb", "available_gb", "used_percent", "process_gb"}
    assert re.fullmatch(r"\d+\.\d%", memory["used_percent"])
    assert abs(float(memory["used_percent"][:-1]) - 100 * (1 - memory["available_gb"] / memory["total_gb"])) < 0.2
    assert one["capabilities"] == {"fp16": True, "int8": True, "int4": True, "int2": True}
    assert one["recommended_level"] in ("fp16", "int8", "int4", "int2")
    loaded = {model["name"]: model for model in one["current_models"]}
    mine = loaded["all-MiniLM-L6-v2"]
    assert mine["status"] == "loaded" and mine["size_mb"] > 10 and mine["access_count"] >= 1 and mine["level"] == "int8"
    assert len(mine["space_id"]) == 64
    status, memory = server.get(base + "memory")
    assert set(memory) >= {"total_gb", "available_gb", "used_gb", "percent_used", "process_memory_gb", "status"}
    status, cache = server.get(base + "cache")
    assert cache["max_size_mb"] == 8000 and cache["models_cached"] == len(cache["models"]) >= 1
    assert re.fullmatch(r"\d+\.\d%", cache["utilization"])
    status, made = server.post(base + "calculate", {"model_size_params": 0.1, "task_priority": "balanced"})
    assert status == 200 and set(made) >= {"level", "precision", "compression_ratio", "estimated_memory_gb", "config"}
    made = server.post(base + "calculate", {"model_size_params": 0.7, "force_quantization": "int4"})[1]
    assert made["level"] == "int4" and made["compression_ratio"] == "8.0x" and made["estimated_memory_gb"] == 0.36
    assert made["config"] == {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_type": "nf4"}
    assert server.post(base + "calculate", {"model_size_params": 1e6})[0] == 409
    status, done = server.post(base + "cache/clear", {})
    assert (status, done) == (200, {"status": "success", "message": "Cache cleared"})
    assert server.get(base + "cache")[1]["models_cached"] == 0


def test_other_methods_and_paths(server):
    status, headers, text = server.ask("GET", "/v1/embeddings")
    assert status == 405 and "POST" in headers["Allow"]
    assert server.ask("GET", "/none")[0] == 404
    assert server.ask("GET", "/info", headers={"Host": "evil.example"})[0] in (403, 421)


def test_metrics(server):
    server.post("/v1/embeddings", {"input": "counted"})
    status, headers, text = server.ask("GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert re.search(r'_total\{[^}]*route="/v1/embeddings"[^}]*\} \d+', text), text
    assert 'bitmill_model_level{model="all-MiniLM-L6-v2",level="int8"} 1' in text
    assert re.search(r"^bitmill_memory_used_ratio 0\.\d+$", text, re.M)
    assert re.search(r'^bitmill_batched_requests\{model="all-MiniLM-L6-v2"\} [1-9]', text, re.M)


def test_drains(bitmill_path, minilm_copy):
    """What has begun is answered; the exit code is 0."""
    with Service(bitmill_path, "--embeddings", minilm_copy) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.post, "/v1/embeddings", {"input": ["word " * 200] * 64}) for _ in range(8)]
        server.wait_for(lambda: server.get("/api/v1/quantization/status")[1]["active_requests"] >= 4)
        assert server.stop() == 0
        codes = [one.result()[0] for one in asked if one.exception() is None]
        assert codes.count(200) >= 4 and set(codes) <= {200, 503}


def test_no_memory_of_others_in_an_answer(bitmill_path, reranker):
    """Two servers whose heaps are filled with different bytes give the same answers to anything, to the byte."""
    rng = np.random.default_rng(6)
    sound = {"/rerank": {"query": "abc", "texts": ["a b", "xyz"], "return_text": True}, "/predict": {"inputs": "abc"},
             "/v1/embeddings": {"input": ["a", "b"]}, "/embed": {"inputs": ["a"]}, "/models/quantize": {"model_type": "x"},
             "/api/v1/quantization/calculate": {"model_size_params": 7}}
    asked = []
    for _ in range(100):
        for path, body in sound.items():
            data = bytearray(json.dumps(body).encode())
            for at in rng.integers(0, len(data), rng.integers(0, 4)):
                data[at] = rng.integers(0, 256)
            if rng.random() < 0.2:
                del data[rng.integers(0, len(data)):]
            asked.append((path, bytes(data)))
    answers = []
    for fill in "17", "211":
        with Service(bitmill_path, "--reranker", reranker, "--level", "int8", "--threads", "1",
                     env={"MALLOC_PERTURB_": fill}) as server:
            # What memory is in use now, an estimate tells.
            answers.append([(status, re.sub(r"memory in use.*|\d+ left", "", text))
                            for status, _, text in (server.ask("POST", path, body) for path, body in asked)])
    assert answers[0] == answers[1]
    assert {200, 400, 404, 422} <= {status for status, _ in answers[0]}


@pytest.mark.slow
def test_schemathesis(server, tmp_path):
    done = subprocess.run([sys.executable, "-m", "schemathesis.cli", "run", server.url + "/openapi.json", "--max-examples", "30",
                           "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                           "response_schema_conformance"], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]

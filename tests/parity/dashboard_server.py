"""What the dashboard polls, said by a small server: stands in for `bitmill serve` where a test has to break it."""

import base64
import hashlib
import http.server
import json
import math
import pathlib
import random
import re
import threading

PAGE = pathlib.Path(__file__).resolve().parents[2] / "src" / "server" / "dashboard.html"
API = "/api/v1/quantization/"
SHARES = {"comfortable": 0.4, "moderate": 0.6, "tight": 0.75, "critical": 0.85}
THRESHOLDS = {**SHARES, "load_low": 2, "load_moderate": 5, "load_high": 10}


def policy_of(page):
    """The Content-Security-Policy that belongs to the page: its one style and its one script, by their hashes."""

    def source(name):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        return "'sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def explained(level, rule, used, active=2):
    """As the policy words it."""
    share, name = f"{100 * used:.1f} %", f"{level} ({rule})"
    load = f"active requests {active}, for which the table has {name}"
    return f"{name}: memory in use {share}, with {level} {share}, {load}; priority balanced"


def space_of(name, level):
    return hashlib.sha256(f"{name} {level}".encode()).hexdigest()


def model(name, level="int8", size_mb=24.1, access_count=12, used=0.469, **other):
    facts = {"status": "loaded", "pinned": False, "in_use": False, "space_id": space_of(name, level)}
    decision = {"level": level, "rule": "balanced", "explanation": explained(level, "balanced", used)}
    decision = {**decision, "used_share": used, "projected_share": used}
    sizes = {"level": level, "size_mb": size_mb, "access_count": access_count}
    there = {"level_sizes_mb": {"fp16": 2 * size_mb, "int8": size_mb, "int4": size_mb / 2}}
    return {"name": name, **sizes, **facts, **there, "decision": decision, **other}


def shelved(name, *levels):
    """A model that no request has asked for."""
    facts = {"status": "not loaded", "level": "", "space_id": "", "pinned": False, "in_use": False, "decision": None}
    return {"name": name, "size_mb": 0.0, "access_count": 0, **facts, "level_sizes_mb": dict.fromkeys(levels, 90.5)}


def job(number, name, state, done=0, result=None):
    what = {"job_id": f"quantize-{number}", "model_name": name, "state": state}
    return {**what, "done_bytes": done, "total_bytes": 1000, "result": result}


def switch(number, unix_ms, name, before, after, rule="balanced", used=0.51, freed_mb=21.3, fault=""):
    what = {"number": number, "unix_ms": unix_ms, "model": name, "from": before, "to": after, "rule": rule}
    came = {"freed_mb": freed_mb, "load_ms": 2.1, "fault": fault}
    return {**what, "explanation": explained(after, rule, used), **came}


def status_of(models=(), switches=(), history=(), warnings=(), used=0.469, level="int8", active=2, shelf=()):
    total = 16.0
    band = ["comfortable", "moderate", "tight", "critical", "emergency"][sum(used >= one for one in SHARES.values())]
    memory = {"total_gb": total, "available_gb": round(total * (1 - used), 1), "used_percent": f"{100 * used:.1f}%"}
    return {
        "device": "cpu",
        "active_requests": active,
        "memory": {**memory, "used_share": used, "process_gb": 0.6, "status": band, "limit": ""},
        "capabilities": {"fp16": True, "int8": True, "int4": True, "int2": False},
        "recommended_level": level,
        "recommended_reason": explained(level, "balanced", used, active),
        "thresholds": THRESHOLDS,
        "warnings": list(warnings),
        "current_models": list(models),
        "models": [*models, *shelf],
        "switches": list(switches),
        "history": list(history),
        "quantizable": [one["name"] for one in (*models, *shelf)],
    }


def cache_of(models=(), max_size_mb=8000.0):
    size = round(sum(one["size_mb"] for one in models), 1)
    share = size / max_size_mb
    facts = {"utilization": f"{100 * share:.1f}%", "utilization_share": share, "models_cached": len(models)}
    return {"current_size_mb": size, "max_size_mb": max_size_mb, **facts, "evictions": 0, "models": list(models)}


def busy_quarter(now_ms):
    """A quarter of an hour in which memory fills and empties again: status and cache."""
    count, step = 180, 5000
    start = now_ms - (count - 1) * step
    history, dice = [], random.Random(1)
    for i in range(count):
        hill = math.exp(-(((i - 95) / 32) ** 2))
        wave = math.sin(i / 3.1) + math.sin(i / 7.3 + 1)
        rate = max(0.0, 24 + 30 * hill + 4 * wave) if not 20 <= i < 28 else 0.0
        p50, p99 = 7 + 5 * hill + 0.5 * wave, 17 + 16 * hill + dice.expovariate(0.5)
        history.append(
            {
                "unix_ms": start + i * step,
                "used_share": round(0.36 + 0.43 * hill + 0.012 * wave, 4),
                "active_requests": round(1 + 8 * hill + wave / 2) if rate else 0,
                "requests_per_s": round(rate, 1),
                "p50_ms": round(p50, 1) if rate else 0,
                "p99_ms": round(p99, 1) if rate else 0,
            }
        )

    def at(i):
        return start + i * step + 700

    def used(i):
        return history[i]["used_share"]

    fault = "level int2 gives NaN on canary text 1; int4 serves"
    switches = [
        switch(1, at(52), "all-MiniLM-L6-v2", "fp16", "int8", "balanced", used(52), 21.3),
        switch(2, at(58), "bge-reranker-base", "fp16", "int8", "balanced", used(58), 251.9),
        switch(3, at(73), "all-MiniLM-L6-v2", "int8", "int4", "required", used(73), 10.6),
        switch(4, at(74), "bge-reranker-base", "int8", "int4", "required", used(74), 122.4),
        switch(5, at(90), "e5-base-v2", "int8", "int4", "critical", used(90), 41.0, fault),
        switch(6, at(121), "all-MiniLM-L6-v2", "int4", "int8", "balanced", used(121), -10.6),
        switch(7, at(126), "bge-reranker-base", "int4", "int8", "balanced", used(126), -122.4),
        switch(8, at(131), "e5-base-v2", "int4", "int8", "balanced", used(131), -41.0),
    ]
    last = history[-1]["used_share"]
    models = [
        model("all-MiniLM-L6-v2", size_mb=24.1, access_count=18342, used=used(121), in_use=True),
        model("bge-reranker-base", size_mb=278.4, access_count=961, used=used(126), pinned=True, in_use=True),
        model("e5-base-v2", size_mb=109.5, access_count=77, used=used(131)),
    ]
    shelf = [shelved("gte-large", "fp16"), shelved("xlm-roberta-base", "fp16", "int8", "int4")]
    return status_of(models, switches, history, used=last, active=2, shelf=shelf), cache_of(models)


class StandIn:
    """Serves the page and what `status`, `cache` and `jobs` are at the time; stop() and start() keep the port."""

    def __init__(self, status, cache, token=None):
        self.status, self.cache, self.token, self.port = status, cache, token, 0
        self.failure = None  # (status code, message): what every poll is answered
        self.posts, self.polls, self.jobs = [], 0, []
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def start(self):
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                stand_in.get(self)

            def do_POST(self):
                stand_in.post(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def get(self, request):
        if request.path == "/":
            page = PAGE.read_text()
            self.send(request, 200, page, "text/html; charset=utf-8", {"Content-Security-Policy": policy_of(page)})
        elif request.path in (API + "status", API + "cache"):
            self.polls += 1
            if self.failure:
                self.answer(request, {"status": "error", "message": self.failure[1]}, self.failure[0])
            else:
                self.answer(request, self.status if request.path.endswith("status") else self.cache)
        elif request.path == "/models/jobs":
            self.answer(request, {"jobs": self.jobs})
        else:
            self.answer(request, {"status": "error", "message": "not found"}, 404)

    def post(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.posts.append((request.path, request.headers.get("Authorization")))
        if request.path == "/models/quantize":
            return self.quantize(request, json.loads(body))
        if request.path != API + "cache/clear":
            return self.answer(request, {"status": "error", "message": "not found"}, 404)
        gone = [shelved(one["name"], *one["level_sizes_mb"]) for one in self.status["models"]]
        self.status = {**self.status, "current_models": [], "models": gone}
        self.cache = cache_of()
        self.answer(request, {"status": "success", "message": "Cache cleared"})

    def quantize(self, request, asked):
        if len(self.jobs) > 1:
            return self.answer(request, {"status": "error", "message": "too many models wait"}, 503)
        begun = job(len(self.jobs) + 1, asked["model_type"], "queued")
        self.jobs = [*self.jobs, begun]
        answer = {"status": "accepted", "job_id": begun["job_id"], "model_name": begun["model_name"]}
        self.answer(request, answer, 202 if asked["wait"] is False else 422)

    def answer(self, request, what, code=200):
        if self.token and request.headers.get("Authorization") != "Bearer " + self.token:
            code, what = 401, {"status": "error", "message": "a token is needed"}
        self.send(request, code, json.dumps(what), "application/json", {})

    @staticmethod
    def send(request, code, text, kind, headers):
        body = text.encode()
        request.send_response(code)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": len(body)}.items():
            request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(body)

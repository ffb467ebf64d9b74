"""Requests over keep-alive connections: each sends its next text once the answer to the last one is there.

Raw sockets and epoll, requests made beforehand, answers counted and not parsed: 40 microseconds of its core a request at 16
connections, 200 at one, where each answer wakes it (2026-11). The core's share is part of the result.
"""

import collections
import contextlib
import gc
import json
import select
import socket
import time

Point = collections.namedtuple("Point", "rate p50 p99 share requests errors answers")
PATIENCE = 60  # seconds without any answer


def make_requests(path, texts):
    """The bytes of one request a text."""
    out = []
    for text in texts:
        body = json.dumps({"model": "minilm", "input": text}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        out.append(head.encode() + body)
    return out


class Connection:
    """One request at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request, index):
        self.index, self.got, self.end = index, b"", None
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self):
        """Whether the answer is complete. ConnectionError where it never will be."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("closed before the answer was complete")
        self.got = self.got + data if self.got else data
        if self.end is None:
            head = self.got.find(b"\r\n\r\n")
            if head < 0:
                return False
            fields = self.got[:head].lower()
            at = fields.find(b"\r\ncontent-length:")
            if at < 0:
                raise ConnectionError("an answer without Content-Length")
            self.end = head + 4 + int(fields[at + 17 :].split(b"\r\n", 1)[0])
        return len(self.got) >= self.end

    @property
    def good(self):
        return self.got.startswith(b"HTTP/1.1 200 ")


def vector_of(answer):
    return json.loads(answer[answer.index(b"\r\n\r\n") + 4 :])["data"][0]["embedding"]


def ask(port, request):
    """One answer over a connection of its own."""
    connection = Connection(port)
    connection.send(request, 0)
    while not connection.receive():
        pass
    connection.socket.close()
    return connection.got


def quantile(ordered, share):
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def load(port, requests, connections, warm, seconds):
    """The requests in turn, over all connections together, for `warm` seconds and then `seconds` that count."""
    poll, all_of, turn = select.epoll(), {}, 0

    def start(one):
        nonlocal turn
        one.send(requests[turn % len(requests)], turn % len(requests))
        turn += 1

    def connect():
        one = Connection(port)
        all_of[one.socket.fileno()] = one
        poll.register(one.socket, select.EPOLLIN)
        start(one)

    gc.collect()
    gc.disable()
    for _ in range(connections):
        connect()
    begin, times, errors, answers, busy = None, [], 0, {}, 0.0
    warm_until = time.perf_counter() + warm
    while True:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise TimeoutError(f"no answer for {PATIENCE} seconds from port {port}")
        now = time.perf_counter()
        if begin is None and now >= warm_until:
            begin, busy, times, errors = now, time.process_time(), [], 0
        if begin is not None and now >= begin + seconds:
            break
        for number, _ in ready:
            one = all_of[number]
            try:
                if not one.receive():
                    continue
            except (ConnectionError, TimeoutError):
                errors += 1
                poll.unregister(number)
                del all_of[number]
                one.socket.close()
                connect()
                continue
            times.append(time.perf_counter() - one.sent)
            if one.good:
                answers[one.index] = one.got
            else:
                errors += 1
            start(one)
    passed, busy = now - begin, time.process_time() - busy
    gc.enable()
    for one in all_of.values():  # the last answers, too: else the server would work on them when it is asked next
        with contextlib.suppress(ConnectionError):
            while not one.receive():
                pass
        one.socket.close()
    times.sort()
    rate = (len(times) - errors) / passed
    return Point(rate, quantile(times, 0.5), quantile(times, 0.99), busy / passed, len(times), errors, answers)

"""A TCP proxy in front of the broker that can cut its connections in the middle of a frame."""

from __future__ import annotations

import contextlib
import socket
import threading

CHUNK_BYTES = 16_384
CUT_AFTER_BYTES = 7  # into a frame: less than its head


Pair = tuple[socket.socket, socket.socket]
"""(to the client, to the broker)"""


class Proxy:
    """Forwards connections of ``port`` to ``target_port``, both of 127.0.0.1."""

    def __init__(self, port: int, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._lock = threading.Lock()
        self._pairs: set[Pair] = set()
        self._to_cut: set[Pair] = set()
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every open connection breaks with the next answer on it, a few bytes into that."""
        with self._lock:
            self._to_cut |= self._pairs

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._target_port), timeout=10)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            pair = (client, broker)
            with self._lock:
                self._pairs.add(pair)
            for source, sink, answers in ((client, broker, False), (broker, client, True)):
                threading.Thread(target=self._pump, args=(pair, source, sink, answers), daemon=True).start()

    def _pump(self, pair: Pair, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if answers and pair in self._to_cut:
                    sink.sendall(data[:CUT_AFTER_BYTES])
                    with self._lock:
                        self.cuts += 1
                    break
                sink.sendall(data)
        self._end(pair)

    def _end(self, pair: Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)
            self._to_cut.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

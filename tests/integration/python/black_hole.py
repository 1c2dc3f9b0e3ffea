"""A TCP proxy on loopback that can stop forwarding, as a dead link does."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType


class BlackHole:
    """Forwards to `target` until `stop_forwarding`.

    After that, connections stay open and new ones are accepted, but no byte passes. Without a
    target it is silent from the start. A context manager.
    """

    def __init__(self, target: str | None = None):
        self._upstream = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._forwards = target is not None
        self._is_over = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._silent: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def stop_forwarding(self) -> None:
        self._forwards = False

    def __enter__(self) -> BlackHole:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._thread.join()
        for end in (self._listener, *self._peers, *self._silent):
            end.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(0.01):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._listener:
                    self._accept()
                elif self._forwards:
                    self._forward(end)
                else:
                    self._selector.unregister(end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._forwards or self._upstream is None:
            self._silent.append(client)
            return
        host, _, port = self._upstream.rpartition(":")
        server = socket.create_connection((host, int(port)))
        self._peers |= {client: server, server: client}
        for end in (client, server):
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        data = end.recv(1 << 16)
        if data:
            self._peers[end].sendall(data)
        else:
            self._selector.unregister(end)
            self._peers[end].shutdown(socket.SHUT_WR)

"""One gRPC call as bytes on a socket: what no gRPC client would send."""

from __future__ import annotations

import socket
import struct
import time
import zlib

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
RST_STREAM = 3
STREAM = 1
FRAME_BYTES = 16384


def gzip_of_zeros(size_bytes: int) -> bytes:
    """A gzip file of about a thousandth of its content."""
    block_bytes = 1 << 24
    assert size_bytes % block_bytes == 0
    zeros = bytes(block_bytes)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(zeros) + deflate.flush(zlib.Z_FULL_FLUSH)
    count = size_bytes // block_bytes
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(zeros, checksum)
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    end = struct.pack("<II", checksum, size_bytes & 0xFFFFFFFF)
    return header + block * count + deflate.flush() + end


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _header(name: str, value: str) -> bytes:
    """A literal without indexing; both below 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class _Call:
    def __init__(self, target: str, method: str, encoding: str) -> None:
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._windows = {0: 65535, STREAM: 65535}
        self._received = b""
        self.answer = b""
        self.is_over = False
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": target,
            "te": "trailers",
            "content-type": "application/grpc",
            "grpc-encoding": encoding,
        }
        block = b"".join(_header(name, value) for name, value in headers.items())
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0)
            + _frame(HEADERS, 4, STREAM, block)
        )

    def close(self) -> None:
        self._socket.close()

    def send(self, message: bytes) -> None:
        """All of it, unless the call ends before."""
        while message and not self.is_over:
            room = min(*self._windows.values(), FRAME_BYTES)
            if room <= 0:
                self.receive()
                continue
            piece, message = message[:room], message[room:]
            flags = 0 if message else 1
            self._socket.sendall(_frame(DATA, flags, STREAM, piece))
            for stream in self._windows:
                self._windows[stream] -= len(piece)

    def receive(self) -> None:
        """The next frame, which may end the call."""
        head = self._read(9)
        if len(head) < 9:
            self.is_over = True
            return
        kind, flags = head[3], head[4]
        stream = struct.unpack(">I", head[5:9])[0]
        payload = self._read(int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and flags == 0:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == 4:  # the initial window of streams
                    self._windows[STREAM] += value - 65535
            self._socket.sendall(_frame(SETTINGS, 1, 0))
        elif kind == PING and flags == 0:
            self._socket.sendall(_frame(PING, 1, 0, payload))
        elif kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += struct.unpack(">I", payload)[0]
        elif kind in (HEADERS, DATA):
            self.answer += payload
            self.is_over = kind == HEADERS and flags & 1 != 0
        elif kind in (RST_STREAM, GOAWAY):
            self.is_over = True

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            chunk = self._socket.recv(65536)
            if not chunk:
                break
            self._received += chunk
        taken, self._received = self._received[:count], self._received[count:]
        return taken


def call_compressed(target: str, method: str, encoding: str, message: bytes) -> bytes:
    """Sends one compressed message; the bytes of the answer's headers and data."""
    call = _Call(target, method, encoding)
    try:
        call.send(b"\x01" + struct.pack(">I", len(message)) + message)
        deadline = time.monotonic() + 60
        while not call.is_over and time.monotonic() < deadline:
            call.receive()
        return call.answer
    except ConnectionError:
        return call.answer
    finally:
        call.close()

"""The identity of a client and the servers that it trusts: TLS, bearer tokens, priority."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import grpc

from theria import _errors as errors

__all__ = ["Metadata", "MetadataSource", "Priority", "Tls", "channel_options"]

Priority: TypeAlias = Literal["high", "normal", "low"]
Metadata: TypeAlias = tuple[tuple[str, "str | bytes"], ...]

_PRIORITY_KEY = "theria-priority"


@dataclass(frozen=True)
class Tls:
    """TLS, configured by PEM files that are read when the client connects.

    Attributes:
        ca_file: Authorities of server certificates; None for gRPC's default list.
        cert_file: The client's certificate chain, if the server requires one (mTLS).
        key_file: The key of `cert_file`.
        server_name: The name expected in the server's certificate; None for the target's host.
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The gRPC credentials.

        Raises:
            InvalidArgument: A file cannot be read or is not the required kind of PEM, or only one
                of `cert_file` and `key_file` is given.
        """
        if (self.cert_file is None) != (self.key_file is None):
            field = "tls.cert_file" if self.cert_file is None else "tls.key_file"
            raise errors.InvalidArgument.of(
                field, f"{field} is missing: cert_file and key_file go together"
            )
        return grpc.ssl_channel_credentials(
            _pem("tls.ca_file", self.ca_file, "CERTIFICATE"),
            _pem("tls.key_file", self.key_file, "PRIVATE KEY"),
            _pem("tls.cert_file", self.cert_file, "CERTIFICATE"),
        )


def channel_options(tls: Tls | None) -> list[tuple[str, Any]]:
    """The channel options that `tls` needs."""
    if tls is None or tls.server_name is None:
        return []
    return [("grpc.ssl_target_name_override", tls.server_name)]


class MetadataSource:
    """The metadata of each RPC. Thread-safe.

    Args:
        metadata: Sent unchanged: keys ``[a-z0-9_.-]``, values of printable ASCII, or bytes if the
            key ends in ``-bin``.
        token: Bearer token.
        token_file: File that contains the token; reread when it changes. Not together with `token`.
        priority: Order of the client's calls among the waiting calls of its tenant.

    Raises:
        InvalidArgument: `metadata` is invalid, `token` and `token_file` are both given, `token` is
            not a token, or the priority is unknown.
    """

    def __init__(
        self,
        metadata: Metadata = (),
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        priority: Priority = "normal",
    ):
        if token is not None and token_file is not None:
            raise errors.InvalidArgument("token and token_file: give one of them")
        if priority not in ("high", "normal", "low"):
            raise errors.InvalidArgument.of(
                "priority", f"priority is {priority!r}, must be high, normal or low"
            )
        ranked = () if priority == "normal" else ((_PRIORITY_KEY, priority),)
        self._fixed: Metadata = (*_checked_metadata(metadata), *ranked)
        self._current = self._fixed if token is None else self._with(token, "token", "its value")
        self._token_file = token_file
        self._version: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def __call__(self) -> Metadata:
        """The metadata of an RPC that starts now.

        Raises:
            InvalidArgument: The token file cannot be read, or does not contain a token.
        """
        if self._token_file is None:
            return self._current
        with self._lock:
            try:
                status = os.stat(self._token_file)
                version = (status.st_ino, status.st_size, status.st_mtime_ns)
                if version == self._version:
                    return self._current
                text = Path(self._token_file).read_bytes()
            except OSError as error:
                raise errors.InvalidArgument.of("token_file", f"token_file: {error}") from error
            self._current = self._with(
                text.decode("latin-1"), "token_file", os.fspath(self._token_file)
            )
            self._version = version
            return self._current

    def _with(self, text: str, field: str, source: str) -> Metadata:
        return (*self._fixed, ("authorization", f"Bearer {_token(text, field, source)}"))


def _checked_metadata(metadata: Iterable[Any]) -> Metadata:
    """The pairs, checked for what gRPC can send.

    Raises:
        InvalidArgument: A pair is invalid. The error names the key but not the value, which may be
            a secret. (gRPC's own error would show it.)
    """
    pairs = [pair if isinstance(pair, (tuple, list)) else (pair,) for pair in metadata]
    if isinstance(metadata, (str, bytes, Mapping)) or any(len(pair) != 2 for pair in pairs):
        raise errors.InvalidArgument.of(
            "metadata", 'metadata must be pairs of a key and a value: (("key", "value"),)'
        )
    for position, (key, value) in enumerate(pairs):
        if not isinstance(key, str) or not re.fullmatch("[a-z0-9_.-]+", key):
            raise errors.InvalidArgument.of(
                f"metadata[{position}]",
                f"metadata[{position}] has the key {key!r}, must be of a-z, 0-9, '_', '.' and '-'",
            )
        binary = key.endswith("-bin")
        if not (
            isinstance(value, bytes)
            if binary
            else isinstance(value, str) and re.fullmatch("[ -~]*", value)
        ):
            raise errors.InvalidArgument.of(
                f"metadata[{position}]",
                f"metadata: the value of {key} must be "
                + ("bytes" if binary else "printable ASCII; bytes need a key that ends in -bin"),
            )
    return tuple((key, value) for key, value in pairs)


def _token(text: str, field: str, source: str) -> str:
    """The token in `text`, without a line ending.

    Raises:
        InvalidArgument: `text` is not a token. The error names `field` and `source` but does not
            show the text, which may be another secret.
    """
    token = text.removesuffix("\n").removesuffix("\r")
    if not re.fullmatch("[!-~]+", token):
        raise errors.InvalidArgument.of(
            field, f"{field}: {source} is no token: one line of printable ASCII, no spaces"
        )
    return token


def _pem(field: str, path: str | os.PathLike[str] | None, label: str) -> bytes | None:
    """The file's content, checked for a block of `label` ("EC PRIVATE KEY" for "PRIVATE KEY")."""
    if path is None:
        return None
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise errors.InvalidArgument.of(field, f"{field}: {error}") from error
    if not re.search(rb"^-----BEGIN (.* )?%b-----\s*$" % label.encode(), text, re.MULTILINE):
        raise errors.InvalidArgument.of(field, f"{field}: {os.fspath(path)} holds no PEM {label}")
    return text

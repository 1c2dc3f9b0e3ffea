"""What `connect` takes and refuses: tokens, TLS files, targets. A refusal shows no secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import theria
from theria._grpc_channel import checked_target
from theria._identity import MetadataSource

KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def refusal(field: str, call: Callable[[], Any]) -> str:
    """The traceback of a call that is refused because of `field`."""
    with pytest.raises(theria.InvalidArgument) as caught:
        call()
    assert caught.value.field == field
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_token_is_a_line(tmp_path: Path, end: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(f"t0ken~!{end}".encode())
    sent = (("authorization", "Bearer t0ken~!"),)
    assert MetadataSource(token=f"t0ken~!{end}")() == sent
    assert MetadataSource(token_file=path)() == sent
    assert MetadataSource()() == ()


@pytest.mark.parametrize(
    "text",
    [
        "secret\nsecret\n",
        "secret\n\n",
        "secret secret",
        " secret",
        "secret\0",
        "secret\xff",
        "secret\x7f",
        KEY,
        "",
        "\n",
    ],
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text, "utf-8")
    source = MetadataSource(token_file=path)
    of_file = refusal("token_file", source)
    assert str(path) in of_file
    assert "secret" not in of_file
    assert "BEGIN" not in of_file
    message = refusal("token", lambda: MetadataSource(token=text)).splitlines()[-1]
    assert "secret" not in message
    assert "BEGIN" not in message
    path.write_text("a-token-of-another-size")
    assert source() == (("authorization", "Bearer a-token-of-another-size"),)


def test_a_token_file_is_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert str(path) in refusal("token_file", MetadataSource(token_file=path))


def test_a_client_says_so_at_each_call(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(KEY)
    with theria.connect("127.0.0.1:1", token_file=path) as client:
        for _ in range(2):
            assert "BEGIN" not in refusal("token_file", client.info)
            assert "BEGIN" not in refusal("token_file", client.health)


@pytest.mark.parametrize("connect", [theria.connect, theria.aio.connect])
def test_ports_have_sixteen_bits(connect: Callable[[str], Any]) -> None:
    for target in ("localhost:65536", "[::1]:99999", "ipv4:127.0.0.1:65537"):
        assert target in refusal("target", partial(connect, target))
    if connect is theria.connect:
        for target in ("localhost:65535", "unix:/tmp/socket:99999"):
            connect(target).close()


@pytest.mark.parametrize("connect", [theria.connect, theria.aio.connect])
@pytest.mark.parametrize(
    "target",
    [
        "",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:grpc",
        "localhost:-1",
        "10.0.0.1",
        "::1",
        "::1:50051",
        "[::1]",
        "[::1",
        "http://localhost:50051",
        "https://localhost",
        "dns:localhost",
        "dns:///theria.example",
        "dns://8.8.8.8/theria.example",
        "ipv4:10.0.0.1",
        "ipv4:10.0.0.1:50051,10.0.0.2",
        "ipv6:%5B::1%5D",
    ],
)
def test_a_target_has_a_port(target: str, connect: Callable[[str], Any]) -> None:
    """gRPC would wait at its port 443 until the deadline."""
    message = refusal("target", partial(connect, target))
    assert f"target is {target!r}, must be host:port" in message


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "10.0.0.1:1",
        "[::1]:50051",
        "[fe80::1%eth0]:50051",
        "dns:theria.example:50051",
        "dns:///theria.example:50051",
        "dns://8.8.8.8:53/theria.example:50051",
        "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        "ipv6:[::1]:50051",
        "ipv6:%5B::1%5D:50051",
        "unix:relative/socket",
        "unix:///run/theria.sock",
        "unix-abstract:theria",
        "vsock:2:50051",
        "xds:///theria",
    ],
)
def test_names_of_servers(target: str) -> None:
    assert checked_target(target) is target


@pytest.mark.parametrize(
    ("pair", "shown"),
    [
        (("X-Key", "secret"), "metadata[1] has the key 'X-Key'"),
        (("", "secret"), "metadata[1] has the key ''"),
        ((":path", "secret"), "metadata[1] has the key ':path'"),
        (("a key", "secret"), "metadata[1] has the key 'a key'"),
        ((1, "secret"), "metadata[1] has the key 1"),
        (("x-key", "secr\u00e9t"), "the value of x-key must be printable ASCII"),
        (("x-key", "secret\n"), "the value of x-key must be printable ASCII"),
        (("x-key", "secret\0"), "the value of x-key must be printable ASCII"),
        (("x-key", b"secret"), "the value of x-key must be printable ASCII"),
        (("x-key", None), "the value of x-key must be printable ASCII"),
        (("x-key-bin", "secret"), "the value of x-key-bin must be bytes"),
    ],
)
@pytest.mark.parametrize("connect", [theria.connect, theria.aio.connect])
def test_metadata_that_cannot_be_sent(
    connect: Callable[..., Any], pair: tuple[Any, Any], shown: str
) -> None:
    metadata = (("authorization", "hidden"), pair)
    message = refusal("metadata[1]", partial(connect, "localhost:1", metadata=metadata))
    assert shown in message
    assert "secr" not in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    "metadata", [{"ab": "secret"}, "ab", ("ab", "secret"), [("a", "secret", "b")], (("a",),)]
)
def test_metadata_are_pairs(metadata: Any) -> None:
    message = refusal("metadata", partial(MetadataSource, metadata))
    assert "pairs of a key and a value" in message
    assert "secret" not in message


def test_metadata_that_can_be_sent() -> None:
    pairs = (("a_key-1.x", " ~"), ("empty", ""), ("x-bin", b"\0\xff"))
    assert MetadataSource(pairs)() == pairs
    assert MetadataSource(list(pairs), priority="low")() == (  # type: ignore[arg-type]
        *pairs,
        ("theria-priority", "low"),
    )


def test_a_clients_timeout_is_a_number() -> None:
    assert "'5s'" in refusal("timeout", partial(theria.connect, "localhost:1", timeout="5s"))


def test_tls_files_hold_what_they_should(tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    key, certificate = write("key", KEY), write("certificate", CERTIFICATE)
    theria.Tls(ca_file=certificate, cert_file=certificate, key_file=key).credentials()
    theria.Tls().credentials()
    request = write("request", "-----BEGIN CERTIFICATE REQUEST-----\n")
    wrong = [key, request, write("empty", ""), write("text", "no PEM"), tmp_path, tmp_path / "none"]
    for path in wrong:
        for field, tls in (
            ("tls.ca_file", theria.Tls(ca_file=path)),
            ("tls.cert_file", theria.Tls(cert_file=path, key_file=key)),
        ):
            assert str(path) in refusal(field, tls.credentials)
    swapped = theria.Tls(cert_file=certificate, key_file=certificate)
    assert str(certificate) in refusal("tls.key_file", swapped.credentials)
    refusal("tls.key_file", theria.Tls(cert_file=certificate).credentials)
    refusal("tls.cert_file", theria.Tls(key_file=key).credentials)

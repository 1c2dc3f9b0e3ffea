"""What `connect` takes and refuses: tokens, TLS files, targets. A refusal shows no secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import theria
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
        for target in ("localhost:65535", "localhost", "unix:/tmp/socket:99999"):
            connect(target).close()


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

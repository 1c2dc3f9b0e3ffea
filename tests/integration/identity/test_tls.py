"""TLS and mTLS: who gets in, and who does not. Both clients and the command."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from authority import Authority
from observe import await_that, gauge, metrics
from server_process import ServerProcess, server_binary
from tenants_file import TenantsFile, digest
from wall_clock import WallClock

import theria

Connect = Callable[..., theria.Client]


@pytest.fixture
def files(authority: Authority) -> list[str]:
    """The flags of a server with a certificate."""
    certificate, key = authority.issue("server")
    return [f"--tls-cert={certificate}", f"--tls-key={key}"]


def ready_with(authority: Authority, *identity: Path) -> grpc.ChannelCredentials:
    certificate, key = (path.read_bytes() for path in identity) if identity else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)


@pytest.fixture
def server(
    start_server: Callable[..., ServerProcess], authority: Authority, files: list[str]
) -> ServerProcess:
    return start_server(*files, credentials=ready_with(authority))


def not_after(certificate: Path) -> float:
    """When it ends, in Unix time, as the openssl command says."""
    run = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)],
        capture_output=True,
        text=True,
        check=True,
    )
    return ssl.cert_time_to_seconds(run.stdout.strip().removeprefix("notAfter="))


def reads(server: ServerProcess) -> int:
    """How often the certificates were read again."""
    return server.log().count("certificates read")


def test_values_come_through(
    server: ServerProcess, authority: Authority, connect: Connect, tensor: np.ndarray
) -> None:
    client = connect(server.target, tls=theria.Tls(ca_file=authority.certificate))
    resident = client.put(tensor)
    np.testing.assert_array_equal(client.get(resident), tensor)
    assert client.forward(resident, tensor, tensor).o.shape == tensor.shape


def test_a_client_that_trusts_another_authority_does_not_connect(
    server: ServerProcess, other_authority: Authority, connect: Connect
) -> None:
    with pytest.raises(theria.Unavailable, match="is not trusted"):
        connect(server.target, tls=theria.Tls(ca_file=other_authority.certificate)).info()


def test_a_server_in_plain_text_has_no_certificate_to_tell_of(
    start_server: Callable[..., ServerProcess],
) -> None:
    assert "theria_tls_" not in metrics(start_server())


def test_a_client_in_plain_text_does_not_connect(server: ServerProcess, connect: Connect) -> None:
    with pytest.raises(theria.Unavailable, match="if the server uses TLS, pass tls=") as caught:
        connect(server.target).info()
    assert server.target in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "if the server uses TLS, connect with TLS (ClientOptions::tls, --tls)"),
        (["--tls"], "is not trusted; set ca_file (--tls-ca)"),
    ],
)
def test_the_command_tells_what_tls_lacks(
    server: ServerProcess, theria_command: str, arguments: list[str], message: str
) -> None:
    ended = subprocess.run(
        [theria_command, "info", server.target, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"theria: {server.target}: cannot be reached: UNAVAILABLE: ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_servers_name_is_checked(
    server: ServerProcess, authority: Authority, connect: Connect
) -> None:
    named = theria.Tls(ca_file=authority.certificate, server_name="server")
    assert connect(server.target, tls=named).info().backend == "cpu"
    misnamed = theria.Tls(ca_file=authority.certificate, server_name="somebody.example.org")
    with pytest.raises(theria.Unavailable, match="is for another name"):
        connect(server.target, tls=misnamed).info()


def test_a_replaced_certificate_serves_new_connections(
    start_server: Callable[..., ServerProcess],
    authority: Authority,
    other_authority: Authority,
    connect: Connect,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tls"
    old, new = tmp_path / "old", tmp_path / "new"
    for signer, target in ((authority, old), (other_authority, new)):
        target.mkdir()
        for source, name in zip(signer.issue("server"), ("tls.crt", "tls.key"), strict=True):
            shutil.copy(source, target / name)
    folder.symlink_to(old)
    server = start_server(
        f"--tls-cert={folder / 'tls.crt'}",
        f"--tls-key={folder / 'tls.key'}",
        credentials=ready_with(authority),
    )
    trusts_new = theria.Tls(ca_file=other_authority.certificate)
    with pytest.raises(theria.Unavailable):
        connect(server.target, tls=trusts_new).info()
    (tmp_path / "next").symlink_to(new)
    os.replace(tmp_path / "next", folder)

    def is_trusted() -> bool:
        try:
            return bool(connect(server.target, tls=trusts_new).info().backend == "cpu")
        except theria.Unavailable:
            return False

    await_that(is_trusted)


class TestReplacedFiles:
    """Certificate and key in place, replaced one by one and by what is no certificate."""

    @pytest.fixture
    def folder(self, authority: Authority, tmp_path: Path) -> Path:
        folder = tmp_path / "tls"
        folder.mkdir()
        self.replace(folder, authority, "tls.crt", "tls.key")
        shutil.copy(authority.certificate, folder / "ca.crt")
        return folder

    @pytest.fixture
    def server(
        self, start_server: Callable[..., ServerProcess], authority: Authority, folder: Path
    ) -> ServerProcess:
        return start_server(
            f"--tls-cert={folder / 'tls.crt'}",
            f"--tls-key={folder / 'tls.key'}",
            f"--tls-client-ca={folder / 'ca.crt'}",
            credentials=ready_with(authority, *authority.issue("probe")),
        )

    def replace(self, folder: Path, signer: Authority, *names: str, days: int = 30) -> None:
        """Puts a new pair's files of these names in place, each as a whole, in this order."""
        pair = dict(zip(("tls.crt", "tls.key"), signer.issue("server", days=days), strict=True))
        for name in names:
            self.replace_with(folder / name, pair[name].read_bytes())

    def replace_with(self, path: Path, content: bytes) -> None:
        partial = path.with_suffix(".partial")
        partial.write_bytes(content)
        os.replace(partial, path)

    def is_trusted(self, server: ServerProcess, connect: Connect, *signers: Authority) -> bool:
        """Whether a new connection by a client that trusts the first one, and is of the last."""
        tls = theria.Tls(signers[0].certificate, *signers[-1].issue("probe"))
        try:
            return bool(connect(server.target, tls=tls).info().backend == "cpu")
        except theria.Unavailable:
            return False

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("tls.crt", b"junk", "which holds no certificate"),
            ("tls.key", b"junk", "which holds no unencrypted key"),
            ("ca.crt", b"", "which holds no certificate"),
            ("tls.crt", b"-----BEGIN CERTIFICATE-----\nbroken\n", "which is broken PEM"),
            ("tls.key", None, "which cannot be read: No such file or directory"),
        ],
    )
    def test_what_was_good_last_holds_on(
        self,
        server: ServerProcess,
        authority: Authority,
        connect: Connect,
        folder: Path,
        name: str,
        content: bytes | None,
        reason: str,
    ) -> None:
        path = folder / name
        good = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            self.replace_with(path, content)
        await_that(lambda: "certificates refused" in server.log())
        (line,) = [line for line in server.log().splitlines() if "certificates refused" in line]
        assert str(path) in line
        assert reason in line
        assert reads(server) == 0
        assert self.is_trusted(server, connect, authority)
        self.replace_with(path, good)
        await_that(lambda: reads(server) == 1)
        assert self.is_trusted(server, connect, authority)
        assert server.log().count("certificates refused") == 1

    @pytest.mark.parametrize("names", [("tls.crt", "tls.key"), ("tls.key", "tls.crt")])
    def test_a_pair_is_replaced_one_after_the_other(
        self,
        server: ServerProcess,
        authority: Authority,
        other_authority: Authority,
        connect: Connect,
        folder: Path,
        names: tuple[str, str],
    ) -> None:
        pair = dict(zip(("tls.crt", "tls.key"), other_authority.issue("server"), strict=True))
        self.replace_with(folder / names[0], pair[names[0]].read_bytes())
        await_that(lambda: "which is not the key of the certificate" in server.log())
        assert self.is_trusted(server, connect, authority)
        self.replace_with(folder / names[1], pair[names[1]].read_bytes())
        await_that(lambda: self.is_trusted(server, connect, other_authority, authority))
        assert not self.is_trusted(server, connect, authority)

    def test_another_authority_of_the_clients(
        self,
        server: ServerProcess,
        authority: Authority,
        other_authority: Authority,
        connect: Connect,
        folder: Path,
    ) -> None:
        assert not self.is_trusted(server, connect, authority, other_authority)
        self.replace_with(folder / "ca.crt", other_authority.certificate.read_bytes())
        await_that(lambda: self.is_trusted(server, connect, authority, other_authority))

    def test_the_metric_tells_when_what_serves_ends(
        self, server: ServerProcess, authority: Authority, folder: Path
    ) -> None:
        def told(flag: str) -> float:
            return gauge(server, f'theria_tls_certificate_not_after_seconds{{flag="{flag}"}}')

        first = not_after(folder / "tls.crt")
        assert told("tls-cert") == first
        assert told("tls-client-ca") == not_after(folder / "ca.crt")
        # A chain ends with the first of its certificates: here its authority's, of two days.
        chain = (folder / "tls.crt").read_bytes() + authority.certificate.read_bytes()
        self.replace_with(folder / "tls.crt", chain)
        await_that(lambda: told("tls-cert") == not_after(authority.certificate))
        self.replace_with(folder / "tls.crt", b"junk")
        await_that(lambda: "certificates refused" in server.log())
        assert told("tls-cert") == not_after(authority.certificate)
        self.replace(folder, authority, "tls.key", "tls.crt", days=60)
        await_that(lambda: told("tls-cert") == not_after(folder / "tls.crt") > first)

    def test_certificates_that_expire_soon_are_told(
        self, server: ServerProcess, authority: Authority, folder: Path
    ) -> None:
        def warnings() -> list[str]:
            return [line for line in server.log().splitlines() if "expires soon" in line]

        # The authority's own certificate lives for two days.
        assert all(str(folder / "ca.crt") in line for line in warnings())
        assert len(warnings()) == 1
        self.replace(folder, authority, "tls.key", "tls.crt", days=6)
        await_that(lambda: any(str(folder / "tls.crt") in line for line in warnings()))

    def test_a_certificate_that_expired_is_told(
        self,
        start_server: Callable[..., ServerProcess],
        authority: Authority,
        folder: Path,
        wall_clock: WallClock,
    ) -> None:
        self.replace(folder, authority, "tls.crt", "tls.key", days=2)
        wall_clock.jump(3 * 24 * 60 * 60)  # the server's alone
        server = start_server(
            f"--tls-cert={folder / 'tls.crt'}",
            f"--tls-key={folder / 'tls.key'}",
            credentials=ready_with(authority),
            environment=wall_clock.environment,
        )
        assert "certificate expired" in server.log()


class TestMutual:
    """Servers that ask for a client's certificate, whose name is a tenant."""

    @pytest.fixture
    def server(
        self,
        start_server: Callable[..., ServerProcess],
        authority: Authority,
        files: list[str],
        tenants: TenantsFile,
    ) -> ServerProcess:
        tenants.write(
            one={"certificates": ["client-one"]},
            two={"certificates": ["client-two"], "tokens": [{"sha256": digest("token-2")}]},
        )
        return start_server(
            *files,
            f"--tls-client-ca={authority.certificate}",
            f"--tenants={tenants.path}",
            credentials=ready_with(authority, *authority.issue("probe")),
        )

    def tls(self, authority: Authority, *identity: Path) -> theria.Tls:
        return theria.Tls(authority.certificate, *identity)

    def test_a_certificate_names_the_tenant(
        self, server: ServerProcess, authority: Authority, connect: Connect, tensor: np.ndarray
    ) -> None:
        one = connect(server.target, tls=self.tls(authority, *authority.issue("client-one")))
        two = connect(server.target, tls=self.tls(authority, *authority.issue("client-two")))
        handle = one.put(tensor).handle
        np.testing.assert_array_equal(one.get(handle), tensor)
        with pytest.raises(theria.TensorMissing):
            two.get(handle)

    def test_a_token_says_more_than_the_certificate(
        self, server: ServerProcess, authority: Authority, connect: Connect, tensor: np.ndarray
    ) -> None:
        identity = self.tls(authority, *authority.issue("client-one"))
        two = connect(server.target, tls=identity, token="token-2")
        handle = two.put(tensor).handle
        with pytest.raises(theria.TensorMissing):
            connect(server.target, tls=identity).get(handle)
        with pytest.raises(theria.AccessDenied):
            connect(server.target, tls=identity, token="wrong").info()

    def test_a_certificate_of_no_tenant_is_refused(
        self, server: ServerProcess, authority: Authority, connect: Connect
    ) -> None:
        with pytest.raises(theria.AccessDenied) as caught:
            connect(server.target, tls=self.tls(authority, *authority.issue("stranger"))).info()
        assert caught.value.code == "UNAUTHENTICATED"
        (line,) = [line for line in server.log().splitlines() if "login refused" in line]
        assert "level=warning" in line
        assert line.endswith("reason=unknown_certificate whose=stranger")

    def test_no_certificate_or_another_authoritys_does_not_connect(
        self,
        server: ServerProcess,
        authority: Authority,
        other_authority: Authority,
        connect: Connect,
    ) -> None:
        forged = self.tls(authority, *other_authority.issue("client-one"))
        for tls in (self.tls(authority), forged):
            with pytest.raises(theria.Unavailable):
                connect(server.target, tls=tls).info()

    def test_the_command_takes_files_and_tokens(
        self,
        server: ServerProcess,
        authority: Authority,
        theria_command: str,
        tmp_path: Path,
    ) -> None:
        certificate, key = authority.issue("client-one")
        info = [theria_command, "info", server.target, f"--tls-ca={authority.certificate}"]
        identity = [f"--tls-cert={certificate}", f"--tls-key={key}"]
        ok = subprocess.run([*info, *identity], capture_output=True, text=True, check=False)
        assert ok.returncode == 0, ok.stderr
        assert "tensor store" in ok.stdout
        token = tmp_path / "token"
        for text, status in (("token-2", 0), ("wrong", 2)):
            token.write_text(text + "\n")
            run = subprocess.run(
                [*info, *identity, f"--token-file={token}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == status, run.stderr
        assert f"{server.target}: UNAUTHENTICATED" in run.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("certificate", "--tls-cert is '{nothing}', which holds no certificate"),
        ("key", "--tls-key is '{nothing}', which holds no unencrypted key"),
        ("pair", "which is not the key of the certificate"),
        ("authority", "--tls-client-ca is '{nothing}', which holds no certificate"),
        ("missing", "which cannot be read: No such file or directory"),
        ("folder", "which cannot be read: Is a directory"),
    ],
)
def test_files_that_cannot_be_are_refused_at_the_start(
    authority: Authority, tmp_path: Path, wrong: str, message: str
) -> None:
    certificate, key = authority.issue("server")
    _, other_key = authority.issue("other")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no PEM")
    flags = {
        "certificate": [f"--tls-cert={nothing}", f"--tls-key={key}"],
        "key": [f"--tls-cert={certificate}", f"--tls-key={nothing}"],
        "pair": [f"--tls-cert={certificate}", f"--tls-key={other_key}"],
        "authority": [
            f"--tls-cert={certificate}",
            f"--tls-key={key}",
            f"--tls-client-ca={nothing}",
        ],
        "missing": [f"--tls-cert={tmp_path / 'nosuch.pem'}", f"--tls-key={key}"],
        "folder": [f"--tls-cert={certificate}", f"--tls-key={tmp_path}"],
    }[wrong]
    run = subprocess.run(
        [str(server_binary()), "--listen=127.0.0.1:0", "--metrics-listen=none", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert message.format(nothing=nothing) in run.stderr
    assert "--tls-" in run.stderr


@pytest.mark.parametrize(("level", "lines"), [("error", 0), ("warn", 20)])
def test_what_grpc_logs_of_a_failed_handshake_has_our_format_and_level(
    start_server: Callable[..., ServerProcess],
    authority: Authority,
    files: list[str],
    level: str,
    lines: int,
) -> None:
    flags = (*files, "--log-format=json", f"--log-level={level}")
    server = start_server(*flags, credentials=ready_with(authority))
    host, port = server.target.rsplit(":", 1)
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=20) as probe:
            probe.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while probe.recv(4096):  # until the server closes it
                pass
    await_that(lambda: server.log().count('"event":"grpc"') >= lines)
    for line in server.log().splitlines():
        assert json.loads(line)["event"]
    assert lines > 0 or server.log() == ""

"""TLS and mTLS: who gets in, and who does not. Both clients and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from authority import Authority
from observe import await_that
from server_process import ServerProcess, server_binary
from tenants_file import TenantsFile, digest

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
    with pytest.raises(theria.Unavailable):
        connect(server.target, tls=theria.Tls(ca_file=other_authority.certificate)).info()


def test_a_client_in_plain_text_does_not_connect(server: ServerProcess, connect: Connect) -> None:
    with pytest.raises(theria.Unavailable):
        connect(server.target).info()


def test_the_servers_name_is_checked(
    server: ServerProcess, authority: Authority, connect: Connect
) -> None:
    named = theria.Tls(ca_file=authority.certificate, server_name="server")
    assert connect(server.target, tls=named).info().backend == "cpu"
    misnamed = theria.Tls(ca_file=authority.certificate, server_name="somebody.example.org")
    with pytest.raises(theria.Unavailable):
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


@pytest.mark.parametrize("wrong", ["certificate", "key", "pair", "authority"])
def test_files_that_cannot_be_are_refused_at_the_start(
    authority: Authority, tmp_path: Path, wrong: str
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
    }[wrong]
    run = subprocess.run(
        [str(server_binary()), "--listen=127.0.0.1:0", "--metrics-listen=none", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "--tls-" in run.stderr

"""`rag serve` speaks TLS itself."""

import datetime as dt
import os
import ssl
import subprocess
import sys

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rag.errors import InvalidInput
from rag.settings import Settings, load_settings
from services import running
from services.auth import check_start
from tests.services.test_restart import free_port
from tests.waiting import until


@pytest.fixture
def certificate(tmp_path):
    """(certificate, key, password of the key) for localhost."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    locked = serialization.BestAvailableEncryption(b"opensesame")
    (tmp_path / "c.pem").write_bytes(made.public_bytes(pem))
    kind = serialization.PrivateFormat.PKCS8
    (tmp_path / "k.pem").write_bytes(key.private_bytes(pem, kind, locked))
    return tmp_path / "c.pem", tmp_path / "k.pem", "opensesame"


def test_over_tls(certificate, tmp_path):
    path, key, password = certificate
    environment = {
        **os.environ,
        "RAG_DATA": str(tmp_path / "data"),
        "RAG_PROFILE": "starter",
        "RAG_PORT": str(free_port()),
        "RAG_WARM_UP": "false",
        "RAG_TLS_CERTIFICATE": str(path),
        "RAG_TLS_KEY": str(key),
        "RAG_TLS_KEY_PASSWORD": password,
    }
    command = [sys.executable, "-c", "from services.cli import main; main()", "serve"]
    trusted = ssl.create_default_context(cafile=path)
    address = f"https://localhost:{environment['RAG_PORT']}"
    log = (tmp_path / "log").open("w")
    with (
        log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
        httpx.Client(base_url=address, verify=trusted, trust_env=False) as client,
    ):
        try:
            until(lambda: server.poll() is not None or answers(client), seconds=60)
            answer = client.get("/healthz")
            # Commands on the machine find it by its address, and know it by its certificate.
            listed = subprocess.run(
                [*command[:-1], "ls"], env=environment, capture_output=True, text=True, check=False
            )
        finally:
            server.terminate()
    assert answer.status_code == 200
    assert "max-age" in answer.headers["strict-transport-security"]
    assert "server" not in answer.headers
    assert (listed.returncode, listed.stderr) == (0, "")


def test_another_server_at_its_address_is_not_believed(certificate, tmp_path):
    running.announce(tmp_path, "127.0.0.1", 8000, "nonce", certificate[0])
    assert isinstance(running.trusted(tmp_path, "https://127.0.0.1:8000/"), ssl.SSLContext)
    assert running.trusted(tmp_path, "https://elsewhere:8000") is True
    running.announce(tmp_path, "127.0.0.1", 8000, "nonce")
    assert running.trusted(tmp_path, "http://127.0.0.1:8000") is True


def answers(client):
    try:
        return client.get("/healthz").is_success
    except httpx.HTTPError:
        return False


def test_a_certificate_needs_its_key_and_must_be_there(tmp_path):
    with pytest.raises(InvalidInput, match="go together"):
        load_settings(tls_certificate=tmp_path / "c.pem")
    missing = Settings(tls_certificate=tmp_path / "c.pem", tls_key=tmp_path / "k.pem")
    with pytest.raises(InvalidInput, match="There is no file"):
        check_start(missing)

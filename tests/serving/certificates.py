"""Certificates of CAs that the tests make, in files as a service reads them."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


def write(directory: Path, name: str, certificate: trustme.LeafCert) -> tuple[Path, Path]:
    """``name.pem``, the certificate with its chain, and ``name.key``; their paths."""
    directory.mkdir(exist_ok=True)
    pem, key = directory / f"{name}.pem", directory / f"{name}.key"
    pem.write_bytes(chain(certificate))
    key.write_bytes(certificate.private_key_pem.bytes())
    return pem, key


def chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def expired(ca: trustme.CA, *names: str) -> trustme.LeafCert:
    """One that has been good until yesterday."""
    now = datetime.now(UTC)
    return ca.issue_cert(*names, not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))


def client_context(ca: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """A client's that trusts ``ca``, with a certificate of its own or without one."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def channel_credentials(ca: trustme.CA, certificate: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    """The same for gRPC."""
    own = (certificate.private_key_pem.bytes(), chain(certificate)) if certificate is not None else (None, None)
    return grpc.ssl_channel_credentials(ca.cert_pem.bytes(), *own)

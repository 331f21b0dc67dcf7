"""TLS: the certificate of both listeners, its key and the CAs of clients, read again when their files change.

OpenSSL (HTTP) and gRPC's own BoringSSL get the same files. A new file that cannot be used changes nothing: the last
good certificate stays, the log says why, and ``ml_tls_certificate_refused`` is 1 until there is one that can be used.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc

from contract.errors import StartupError
from serving.background import Background
from serving.settings import Settings
from serving.telemetry import series

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two looks. Changed files are reread once two looks see the same: the key may follow the
certificate."""
HANDSHAKE_SECONDS = 10.0
"""Maximum seconds for a handshake, over either protocol."""
MAXIMUM_FILE_BYTES = 4 * 1024 * 1024
CERTIFICATE, KEY, CLIENT_CA = "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"
_CERTIFICATES = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _VERSION = 0x17, 0xA0


class Unusable(Exception):
    """Files that cannot be used; the sentence says which and why."""


@dataclass(frozen=True)
class Material:
    """What the files hold.

    Args:
        context: for HTTP. A connection that has begun with it keeps it.
        for_grpc: the same for gRPC.
        expires: by setting, the Unix time at which the first certificate in its file expires.
    """

    context: ssl.SSLContext = field(repr=False)
    for_grpc: grpc.ServerCertificateConfiguration = field(repr=False)
    expires: Mapping[str, float]


class Tls:
    """The current certificate, key and CAs.

    Args:
        files: by setting. Symbolic links are followed each time, as Kubernetes swaps them.
        probe: certificate and key of the health check; None: the same as the service's own.

    Raises:
        StartupError: they cannot be used; says which, why, and what to do.
    """

    def __init__(self, files: Mapping[str, Path], probe: tuple[Path, Path] | None = None) -> None:
        self.files = files
        self._probe = probe or (files[CERTIFICATE], files[KEY])
        self.asks_clients = CLIENT_CA in files
        """Whether a client needs a certificate."""
        self._state = self._look()
        self._refused = ""
        self._watching = Background()
        try:
            self.material = _read(files)
        except Unusable as error:
            raise StartupError(f"{error}") from None

    @classmethod
    def of(cls, settings: Settings) -> "Tls | None":
        """The TLS of the settings; None without ``TLS_CERT_FILE``: the listeners speak plain text.

        Raises:
            StartupError: a setting or its file cannot be used.
        """
        files = {name: path for name in (CERTIFICATE, KEY, CLIENT_CA) if (path := getattr(settings, name)) is not None}
        if not files:
            return None
        if missing := [name for name in (CERTIFICATE, KEY) if name not in files]:
            raise StartupError(
                f"{' and '.join(files)} {'is' if len(files) == 1 else 'are'} set, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not. TLS needs {CERTIFICATE} and {KEY}: set both, or none."
            )
        probe = (settings.TLS_PROBE_CERT_FILE, settings.TLS_PROBE_KEY_FILE)
        if probe[0] is not None and probe[1] is not None:
            return cls(files, (probe[0], probe[1]))
        if probe != (None, None):
            raise StartupError("The health check needs TLS_PROBE_CERT_FILE and TLS_PROBE_KEY_FILE: set both, or none.")
        return cls(files)

    def say(self) -> None:
        """Log what the listeners speak; warn of certificates that have expired, or that the health check has none."""
        now = datetime.now(UTC).timestamp()
        expires = {name: _day(at) for name, at in self.material.expires.items()}
        logger.info("TLS is on", extra={"client_certificates": self.asks_clients, "expires": expires})
        for name, at in self.material.expires.items():
            if at < now:
                logger.warning("certificate has expired", extra={"setting": name, "file": str(self.files[name])})
        if self.asks_clients and (reason := self._refusal(*self._probe)):
            logger.warning(
                "the health check will be refused: set TLS_PROBE_CERT_FILE and TLS_PROBE_KEY_FILE to a certificate of "
                f"{CLIENT_CA}",
                extra={"file": str(self._probe[0]), "reason": reason},
            )

    def _refusal(self, certificate: Path, key: Path) -> str:
        """Why a client with this certificate would be refused; empty if it would not. It tries a handshake in
        memory."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            client.load_cert_chain(certificate, key, password="")
            ends = [
                client.wrap_bio(to_client, to_server),
                self.material.context.wrap_bio(to_server, to_client, server_side=True),
            ]
            while ends:
                try:
                    ends[0].do_handshake()
                    ends.pop(0)
                except ssl.SSLWantReadError:
                    ends.reverse()
        except ssl.SSLError as error:
            return _reason(error)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one gRPC server. gRPC asks for the present certificate at each handshake, from a thread of its own."""
        given = self.material

        def present() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self.material:
                return None  # As before.
            given = self.material
            return given.for_grpc

        return grpc.dynamic_ssl_server_credentials(
            given.for_grpc,
            cast(Any, present),  # Its types do not know that None stands for what it has.
            require_client_authentication=self.asks_clients,
        )

    def start(self) -> None:
        """Follow the files from now on. Call it on the event loop of a worker."""
        self._measure()
        series.TLS_REFUSED.set(0)
        for outcome in ("done", "refused"):
            series.TLS_REREAD.labels(outcome)
        self._watching.start(self._watch())

    async def stop(self) -> None:
        """Follow no longer."""
        await self._watching.stop()

    async def _watch(self) -> None:
        before = self._state
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = self._look()
            if now != self._state and now == before:
                await self._reread(now)
            before = now

    async def _reread(self, state: object) -> None:
        self._state = state
        files = {name: str(path) for name, path in self.files.items()}
        try:
            material = await asyncio.to_thread(_read, self.files)
            _check_expiry(material, self.files)
        except Unusable as error:
            if str(error) != self._refused:
                logger.warning("certificate not reread", extra={"files": files, "reason": str(error)})
                series.TLS_REREAD.labels("refused").inc()
            self._refused = str(error)
            series.TLS_REFUSED.set(1)
            return
        # Open connections keep the certificate that they began with.
        self.material = material
        self._refused = ""
        series.TLS_REFUSED.set(0)
        series.TLS_REREAD.labels("done").inc()
        self._measure()
        expires = {name: _day(at) for name, at in material.expires.items()}
        logger.warning("certificate reread", extra={"files": files, "expires": expires})

    def _measure(self) -> None:
        for name, at in self.material.expires.items():
            series.TLS_EXPIRY.labels(name).set(at)

    def _look(self) -> object:
        """A value that changes when one of the files is written or replaced."""
        found: list[object] = []
        for path in self.files.values():
            try:
                state = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size))
        return tuple(found)


def _read(files: Mapping[str, Path]) -> Material:
    """Read and check the files.

    Raises:
        Unusable: one of them cannot be used, or they do not belong together.
    """
    texts = {name: _text(name, path) for name, path in files.items()}
    for name in texts.keys() - {KEY}:
        if not _CERTIFICATES.search(texts[name]):
            raise Unusable(f"{_named(files, name)} has no certificate in PEM form (-----BEGIN CERTIFICATE-----).")
    if "ENCRYPTED" in texts[KEY]:
        raise Unusable(
            f"{_named(files, KEY)} is encrypted, and nobody is there to type its password. Decrypt it with "
            f"`openssl pkey -in {files[KEY]} -out plain.pem`, and let nobody but the service read the result."
        )
    if "PRIVATE KEY-----" not in texts[KEY]:
        raise Unusable(f"{_named(files, KEY)} has no private key in PEM form (-----BEGIN PRIVATE KEY-----).")
    context = _context(files, texts)
    pair = (texts[KEY].encode(), texts[CERTIFICATE].encode())
    cas = texts[CLIENT_CA].encode() if CLIENT_CA in texts else None
    expires = {name: min(map(_not_after, _certificates(texts[name]))) for name in files if name != KEY}
    return Material(context, grpc.ssl_server_certificate_configuration([pair], cas), expires)


def _context(files: Mapping[str, Path], texts: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # OpenSSL would ask for the password of a key on the terminal.
        context.load_cert_chain(files[CERTIFICATE], files[KEY], password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Unusable(
                f"{_named(files, KEY)} is not the key of the first certificate in {files[CERTIFICATE]} ({CERTIFICATE})."
            ) from None
        raise Unusable(f"{_named(files, CERTIFICATE)} with {KEY}={files[KEY]} is refused: {_reason(error)}.") from None
    if CLIENT_CA in files:
        context.verify_mode = ssl.CERT_REQUIRED
        # With a session ticket, a client would get in for hours after its certificate has expired.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        try:
            context.load_verify_locations(cadata="\n".join(_CERTIFICATES.findall(texts[CLIENT_CA])))
        except ssl.SSLError as error:
            raise Unusable(f"{_named(files, CLIENT_CA)} is refused: {_reason(error)}.") from None
    # OpenSSL must have read what was checked.
    if any(_text(name, path) != texts[name] for name, path in files.items()):
        raise Unusable(f"{_named(files, CERTIFICATE)} changed while it was read.")
    return context


def _check_expiry(material: Material, files: Mapping[str, Path]) -> None:
    """A certificate that has expired never replaces one that may be good."""
    at = material.expires[CERTIFICATE]
    if at < datetime.now(UTC).timestamp():
        raise Unusable(f"{_named(files, CERTIFICATE)} expired on {_day(at)}.")


def _text(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{name} names {path}, which cannot be read: {error.strerror}.") from None
    if len(content) > MAXIMUM_FILE_BYTES:
        raise Unusable(f"{name} names {path}, which is larger than {MAXIMUM_FILE_BYTES} bytes.")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise Unusable(
            f"{name} names {path}, which is not PEM text. `openssl x509 -inform der -in {path}` shows whether it is "
            "a certificate in DER form, and writes it as PEM with `-out`."
        ) from None


def _named(files: Mapping[str, Path], name: str) -> str:
    return f"{name} names {files[name]}, which"


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or error.strerror or "no reason given").replace("_", " ").lower()


def _certificates(text: str) -> list[bytes]:
    """The certificates of a PEM file, each in DER form."""
    return [ssl.PEM_cert_to_DER_cert(one) for one in _CERTIFICATES.findall(text)]


def _not_after(certificate: bytes) -> float:
    """The Unix time at which a certificate expires: ``validity.notAfter`` of RFC 5280, 4.1.

    The image has no library for certificates, and ``ssl`` shows none but a peer's.
    """
    _, at, _ = _element(certificate, 0)  # Certificate
    _, at, _ = _element(certificate, at)  # tbsCertificate
    kind, _, end = _element(certificate, at)
    if kind == _VERSION:
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(certificate, at)
    _, at, _ = _element(certificate, at)  # validity
    _, _, at = _element(certificate, at)  # notBefore
    kind, at, end = _element(certificate, at)
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(certificate[at:end].decode(), form).replace(tzinfo=UTC).timestamp()


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """An element of DER: its tag, where its content begins, and where it ends."""
    kind, length, begin = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    return kind, begin, begin + length


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")

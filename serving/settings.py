"""The settings: environment variables, read once into a frozen ``Settings``."""

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from contract.errors import StartupError
from ledger.database import default_url
from ledger.jobs import DEFAULT_COOLDOWN_MINUTES, DEFAULT_MINIMUM_ROWS
from model import signing
from serving.keys import Key, Keys, Ring, hashes

PROJECT = Path(__file__).resolve().parent.parent
"""The root of the project, or of the source in a built Bento."""


def address_of(host: str) -> str:
    """The IP address of a host; an address is returned as it is. IPv4 comes first.

    Raises:
        ValueError: the name has no address.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError("neither an IP address nor a name that has one") from None
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


def existing_directory(path: Path) -> Path:
    """A directory that exists.

    Raises:
        ValueError: it does not.
    """
    if not path.is_dir():
        raise ValueError("there is no such directory")
    return path


def networks_of(text: str) -> str:
    """Addresses and networks, separated by commas; ``*`` for all.

    Raises:
        ValueError: one is neither.
    """
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word != "*":
            try:
                ipaddress.ip_network(word)
            except ValueError:
                raise ValueError("takes addresses and networks, as in 10.0.0.0/8, separated by commas") from None
    return text


def origins_of(text: object) -> object:
    """Origins of web pages, separated by commas; ``*`` for all.

    Raises:
        ValueError: one is none.
    """
    if not isinstance(text, str):
        return text
    origins = tuple(filter(None, (part.strip() for part in text.split(","))))
    for origin in origins:
        if origin != "*" and not _ORIGIN(origin):
            raise ValueError("takes origins, as in https://app.example.com, separated by commas")
    return origins


_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?").fullmatch
Host = Annotated[str, AfterValidator(address_of)]
Port = Annotated[int, Field(ge=1, le=65_535)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]
Hashes = Annotated[tuple[Key, ...], BeforeValidator(hashes)]
LogFormat = Annotated[Literal["auto", "json", "console"], BeforeValidator(str.lower)]
OnOff = Annotated[Literal["on", "off"], BeforeValidator(str.lower)]


def _public_keys(text: str) -> str:
    keys = [part.strip() for part in text.split(",") if part.strip()]
    if not keys:
        # Without keys, unsigned models would be served.
        raise ValueError("there is no key; `python -m model.signing new FILE` makes a pair and prints the public one")
    for key in keys:
        signing.public_key(key)
    return text


def _database_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("sqlite:///", "postgres://", "postgresql://", "postgresql+psycopg://")):
        raise ValueError("a URL that begins with sqlite:/// or postgresql:// is needed")
    return url


class Settings(BaseModel):
    """Every setting of the service, named after its environment variable.

    With ``repr=False`` its value is never shown, not in errors either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    API_HOST: Host = Field(default="0.0.0.0", description="Address that HTTP and gRPC listen on.")  # noqa: S104 - a container serves all
    API_PORT: Port = Field(default=8000, description="HTTP port.")
    GRPC_PORT: Port = Field(default=8001, description="gRPC port; every worker listens on it.")
    HTTP_KEEP_ALIVE_SECONDS: float = Field(
        default=75,
        gt=0,
        le=86_400,
        # nginx and AWS's load balancer keep an idle connection to a server for 60 s. The server must not close it
        # first: a request on its way would meet a closed connection, and the proxy would answer 502.
        description="Idle time after which an HTTP connection is closed; longer than the proxy's.",
    )
    HTTP_MAX_HEADER_BYTES: int = Field(
        default=32 * 1024,
        ge=1024,
        le=1024**2,
        description="Maximum bytes of a request's line and headers; above it, 431.",
    )
    HTTP_MAX_HEADERS: int = Field(
        default=100, ge=10, le=10_000, description="Maximum headers of a request; above it, 431."
    )
    HTTP_HEADER_SECONDS: float = Field(
        default=10, gt=0, le=3600, description="Maximum time for the headers of a request; above it, 408."
    )
    HTTP_MAX_CONNECTIONS: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Maximum HTTP connections of a worker; above it, 503. "
        "Default: three quarters of its file descriptors, at most 10,000.",
    )
    MAX_RECEIVING_BYTES: int = Field(
        default=32 * 1024 * 1024,
        ge=64 * 1024,
        le=2**31 - 1,
        description="Maximum bytes of unfinished requests in a worker; above it, 429.",
    )
    WORKERS: int | None = Field(default=None, ge=1, le=256, description="Worker processes; default: one per core.")
    LOG_LEVEL: LogLevel = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    LOG_FORMAT: LogFormat = Field(
        default="auto", description="json, console, or auto: console if standard output is a terminal, else json."
    )
    LOG_FILE: Path | None = Field(
        default=None, description="File to write the log to as well, as JSON; each worker adds its number to the name."
    )
    SLOW_REQUEST_MS: float = Field(default=1000, gt=0, description="Requests slower than this are logged, in ms.")
    MODELS_DIR: Annotated[Path, AfterValidator(existing_directory)] = Field(
        default=PROJECT / "models", description="Where the pipeline leaves `deployed.json` and the exported models."
    )
    MODEL_PUBLIC_KEYS: Annotated[str, AfterValidator(_public_keys)] | None = Field(
        default=None,
        description="Public keys, between commas, of which one must have signed each model; unset: none is asked for.",
    )
    MODEL_PUBLIC_KEYS_FILE: Path | None = Field(
        default=None, description="File of such keys, one a line, reread when a model is loaded."
    )
    MAX_BATCH_SIZE: int = Field(default=512, ge=1, le=100_000, description="Maximum rows in one call of the model.")
    MAX_LATENCY_MS: float = Field(
        default=500, gt=0, le=600_000, description="Maximum estimated time to an answer; above it, 429."
    )
    MAX_BODY_BYTES: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        le=2**31 - 1,
        description="Maximum body in bytes, decompressed; above it, 413.",
    )
    GRPC_MAX_MESSAGE_BYTES: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        le=2**31 - 1,  # what gRPC counts with
        description="Maximum gRPC message in bytes; above it, RESOURCE_EXHAUSTED.",
    )
    GRPC_KEEPALIVE_SECONDS: float = Field(
        default=10,
        gt=0,
        le=7200,
        description="Clients of gRPC may send a keepalive ping this often; more often, and they are disconnected.",
    )
    TIMEOUT_SECONDS: float = Field(
        default=30, gt=0, le=3600, description="Maximum time for one prediction; above it, 504."
    )
    DRAIN_SECONDS: float = Field(
        default=0, ge=0, le=600, description="After SIGTERM, time to go on serving while not ready."
    )
    RETRAIN_COOLDOWN_MINUTES: float = Field(
        default=DEFAULT_COOLDOWN_MINUTES,
        ge=0,
        le=10**7,
        description="Least time between two retrainings of a model, in minutes.",
    )
    RETRAIN_MINIMUM_ROWS: int = Field(
        default=DEFAULT_MINIMUM_ROWS,
        ge=0,
        le=10**9,
        description="Labelled rows since its last retraining that a model needs.",
    )
    LEDGER: OnOff = Field(default="on", description="on: every answered prediction is recorded; or off.")
    STATE_DIR: Path = Field(
        default=PROJECT / "state",
        description="Where the ledger keeps its spool and its SQLite file.",
    )
    DATABASE_URL: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None,
        repr=False,
        description="Database of the ledger: postgresql://user:password@host/name; default: a file in STATE_DIR.",
    )
    LEDGER_SPOOL_BYTES: int = Field(
        default=1024**3,
        ge=1024**2,
        le=1024**5,
        description="Maximum size of the spool in bytes; above it, the oldest records are dropped.",
    )
    LEDGER_KEEP_DAYS: float = Field(
        default=90, gt=0, le=36_500, description="Age at which records are deleted, in days."
    )
    LEDGER_KEEP_BYTES: int | None = Field(
        default=None,
        ge=1024**2,
        le=1024**5,
        description="Maximum size of the ledger's records in bytes; unset: no limit.",
    )
    LEDGER_FEATURES: OnOff = Field(
        default="on", description="off: records have no features, only ids, outputs and times."
    )
    LEDGER_MIN_LABELS: int = Field(
        default=30, ge=1, le=10**9, description="Labelled rows below which no live quality is shown."
    )
    OTEL_EXPORTER_OTLP_ENDPOINT: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Base URL to send spans to over OTLP/HTTP; unset: no tracing.",
    )
    OTEL_TRACES_SAMPLER_ARG: float = Field(
        default=1.0, ge=0, le=1, description="Share of traces to keep, unless the caller has decided."
    )

    TLS_CERT_FILE: Path | None = Field(
        default=None,
        description="PEM file of a certificate and its chain: HTTP and gRPC speak TLS; unset: plain text.",
    )
    TLS_KEY_FILE: Path | None = Field(default=None, description="PEM file of its private key, not encrypted.")
    TLS_CLIENT_CA_FILE: Path | None = Field(
        default=None, description="PEM file of CAs: every client needs a certificate of theirs; unset: none is needed."
    )
    TLS_PROBE_CERT_FILE: Path | None = Field(
        default=None, description="Certificate that the health check shows; unset: the service's own."
    )
    TLS_PROBE_KEY_FILE: Path | None = Field(default=None, description="Its private key.")

    # It may be a key that somebody took for its hash.
    API_KEYS: Hashes | None = Field(
        default=None,
        repr=False,
        description="SHA-256 hashes of the keys of clients, between commas; unset: none is needed.",
    )
    API_KEYS_FILE: Path | None = Field(default=None, description="File of such hashes, one a line, reread on change.")
    ADMIN_KEYS: Hashes | None = Field(
        default=None, repr=False, description="Hashes of keys for every route; unset: admin routes answer 403."
    )
    ADMIN_KEYS_FILE: Path | None = Field(default=None, description="File of such hashes, one a line, reread on change.")
    METRICS_KEYS: Hashes | None = Field(
        default=None, repr=False, description="Hashes of keys for `/metrics`; unset: it takes the API keys."
    )
    METRICS_KEYS_FILE: Path | None = Field(
        default=None, description="File of such hashes, one a line, reread on change."
    )
    FORWARDED_ALLOW_IPS: Annotated[str, AfterValidator(networks_of)] = Field(
        default="",
        description="Addresses or networks of proxies whose `X-Forwarded-For` is believed; `*`: all.",
    )

    CORS_ORIGINS: Annotated[tuple[str, ...], BeforeValidator(origins_of)] | None = Field(
        default=None,
        description="Origins whose pages may call the API, as in https://app.example.com, between commas; `*`: all; "
        "unset: none.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.MAX_BODY_BYTES > self.MAX_RECEIVING_BYTES:
            raise ValueError(f"MAX_RECEIVING_BYTES must be at least MAX_BODY_BYTES, which is {self.MAX_BODY_BYTES}")
        return self

    def keys(self) -> Keys:
        """The keys of all rings, those of files as they are now.

        Raises:
            StartupError: a file cannot be used.
        """
        given = {ring: keys for ring in Ring if (keys := getattr(self, ring.value)) is not None}
        files = {ring: path for ring in Ring if (path := getattr(self, f"{ring.value}_FILE")) is not None}
        return Keys(given, files)

    def model_keys(self) -> signing.PublicKeys:
        """The public keys that models must be signed with, those of the file as they are now; none: they need not be.

        Raises:
            StartupError: the file cannot be used.
        """
        words = (self.MODEL_PUBLIC_KEYS or "").split(",")
        found = [signing.public_key(word.strip()) for word in words if word.strip()]
        named = ["MODEL_PUBLIC_KEYS"] if found else []
        if (file := self.MODEL_PUBLIC_KEYS_FILE) is not None:
            try:
                lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
                of_file = [signing.public_key(line) for line in lines if line]
            except OSError as error:
                raise StartupError(
                    f"MODEL_PUBLIC_KEYS_FILE names {file}, which cannot be used: {error.strerror}."
                ) from None
            except ValueError as error:
                raise StartupError(f"MODEL_PUBLIC_KEYS_FILE names {file}, which cannot be used: {error}.") from None
            if not of_file:
                raise StartupError(f"MODEL_PUBLIC_KEYS_FILE names {file}, which has no key.")
            found += of_file
            named.append("MODEL_PUBLIC_KEYS_FILE")
        return signing.PublicKeys(tuple(found), " and ".join(named))

    @property
    def spool(self) -> Path:
        """The directory of the ledger's spool."""
        return self.STATE_DIR / "spool"

    @property
    def database_url(self) -> str:
        """The URL of the ledger's database, with its password."""
        if self.DATABASE_URL is not None:
            return self.DATABASE_URL.get_secret_value()
        return default_url(self.STATE_DIR.resolve())

    def drainer_environment(self) -> dict[str, str]:
        """The settings of the ledger, as ``ledger.drainer`` reads them from its environment."""
        return {
            "STATE_DIR": str(self.STATE_DIR.resolve()),
            "DATABASE_URL": self.database_url,
            "LEDGER_MIN_LABELS": str(self.LEDGER_MIN_LABELS),
            "LEDGER_KEEP_DAYS": str(self.LEDGER_KEEP_DAYS),
            "LEDGER_KEEP_BYTES": "" if self.LEDGER_KEEP_BYTES is None else str(self.LEDGER_KEEP_BYTES),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings. A variable that is unset or empty keeps its default.

        Raises:
            StartupError: names each wrong variable, its value unless it may be secret, and what is wrong with it.
        """
        known = {name: environment[name] for name in cls.model_fields if environment.get(name)}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            problems = "; ".join(
                cls._told(problem["loc"], problem["input"], problem["msg"].removeprefix("Value error, "))
                for problem in error.errors()
            )
            raise StartupError(f"The environment does not parse: {problems}. Correct or unset it.") from None

    @classmethod
    def _told(cls, location: Sequence[int | str], value: object, problem: str) -> str:
        if not location:  # It is about several.
            return problem
        name = str(location[0])
        shown = f"{name}={value!r}" if cls.model_fields[name].repr else name
        return f"{shown}: {problem[0].lower()}{problem[1:]}"

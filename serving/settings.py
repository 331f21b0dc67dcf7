"""The environment, read once into a frozen ``Settings``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from contract.errors import StartupError

PROJECT = Path(__file__).resolve().parent.parent
"""The root of the project, or of the built Bento's source."""

Port = Annotated[int, Field(ge=1, le=65_535)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]
LogFormat = Annotated[Literal["auto", "json", "console"], BeforeValidator(str.lower)]


class Settings(BaseModel):
    """Every setting of the service, under the name of its environment variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    API_HOST: str = Field(default="0.0.0.0", description="Address the HTTP and the gRPC server bind.")  # noqa: S104 - a container serves all
    API_PORT: Port = Field(default=8000, description="HTTP port.")
    GRPC_PORT: Port = Field(default=8001, description="gRPC port; every worker listens on it.")
    WORKERS: int | None = Field(default=None, ge=1, le=256, description="Worker processes; default: the cores.")
    LOG_LEVEL: LogLevel = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    LOG_FORMAT: LogFormat = Field(
        default="auto", description="json, console, or auto: console if standard output is a terminal, else json."
    )
    LOG_FILE: Path | None = Field(
        default=None, description="File for the log too, as JSON; each worker adds its number to the name."
    )
    SLOW_REQUEST_MS: float = Field(
        default=1000, gt=0, description="A request that takes longer is logged, in milliseconds."
    )
    MODELS_DIR: Path = Field(
        default=PROJECT / "models", description="Where the pipeline leaves `deployed.json` and the exported models."
    )
    MAX_BATCH_SIZE: int = Field(default=512, ge=1, le=100_000, description="Most rows the model is given at once.")
    MAX_LATENCY_MS: float = Field(
        default=500, gt=0, le=600_000, description="Longest estimated time to an answer; over it, 429."
    )
    MAX_BODY_BYTES: int = Field(default=4 * 1024 * 1024, ge=1024, description="Largest body, in bytes; over it, 413.")
    GRPC_MAX_MESSAGE_BYTES: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Largest gRPC message, in bytes; over it, RESOURCE_EXHAUSTED."
    )
    GRPC_KEEPALIVE_SECONDS: float = Field(
        default=10,
        gt=0,
        le=7200,
        description="Clients of gRPC may send a keepalive ping this often; more often, and they are disconnected.",
    )
    TIMEOUT_SECONDS: float = Field(
        default=30, gt=0, le=3600, description="Longest time for one prediction; over it, 504."
    )
    DRAIN_SECONDS: float = Field(
        default=0, ge=0, le=600, description="Time from SIGTERM, which ends the readiness, until it stops listening."
    )
    OTEL_EXPORTER_OTLP_ENDPOINT: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Base URL that spans are sent to over OTLP/HTTP; unset: no tracing.",
    )
    OTEL_TRACES_SAMPLER_ARG: float = Field(
        default=1.0, ge=0, le=1, description="Share of the traces that are kept, where the caller has not decided."
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; a variable that is unset or empty keeps its default.

        Raises:
            StartupError: names the variable, its text and what is wrong with it.
        """
        known = {name: environment[name] for name in cls.model_fields if environment.get(name)}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            problems = "; ".join(
                f"{problem['loc'][0]}={problem['input']!r}: {problem['msg'].lower()}" for problem in error.errors()
            )
            raise StartupError(f"The environment does not parse: {problems}. Correct or unset it.") from error

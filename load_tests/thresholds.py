"""The load of each shape and the limits that must hold under it, read from ``thresholds.yaml``."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from load_tests.arrivals import Process
from load_tests.errors import LoadTestError
from load_tests.shapes import Shape
from load_tests.summary import Figures

THRESHOLDS_FILE = Path("load_tests/thresholds.yaml")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Load(_Part):
    """The offered load: ``rate`` requests a second of all ``users`` together."""

    users: PositiveInt
    rate: PositiveFloat
    arrivals: Process
    run_seconds: PositiveInt

    def same_pressure(self, other: "Load") -> bool:
        """Whether two loads differ at most in how long they run, so that the same limits apply."""
        return self.model_copy(update={"run_seconds": other.run_seconds}) == other

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s of {self.users} users, {self.arrivals} arrivals"


class Limits(_Part):
    """Limits of one user class; a limit that is left out is not checked.

    ``failure_rate`` (0 to 1) and the percentiles of the response time (ms) are the most that is allowed,
    ``requests_per_second`` is the least.
    """

    failure_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    p50_ms: PositiveFloat | None = None
    p95_ms: PositiveFloat | None = None
    p99_ms: PositiveFloat | None = None
    requests_per_second: PositiveFloat | None = None

    def breaches(self, name: str, figures: Figures) -> Iterator[str]:
        """Each figure of a user class that breaks its limit, as in ``SingleRowUser p99 45 ms > 30 ms``."""
        if not figures.requests:
            yield f"{name} made no requests"
            return
        if self.failure_rate is not None and figures.failure_rate > self.failure_rate:
            yield f"{name} failure rate {figures.failure_rate * 100:.3g} % > {self.failure_rate * 100:.3g} %"
        for percentile in ("p50", "p95", "p99"):
            figure, limit = getattr(figures, f"{percentile}_ms"), getattr(self, f"{percentile}_ms")
            if limit is not None and figure > limit:
                yield f"{name} {percentile} {figure:g} ms > {limit:g} ms"
        if self.requests_per_second is not None and figures.requests_per_second < self.requests_per_second:
            yield f"{name} {figures.requests_per_second:g} requests/s < {self.requests_per_second:g} requests/s"


class Profile(_Part):
    """A load, and the limits under it by user class."""

    load: Load
    limits: dict[str, Limits]

    def breaches(self, figures: Mapping[str, Figures]) -> list[str]:
        """Every breach, by user class; a class that made no request breaks its limits."""
        return [
            breach
            for name, limits in self.limits.items()
            for breach in limits.breaches(name, figures.get(name, Figures.of_nothing()))
        ]


class Thresholds(_Part):
    """The profiles by shape."""

    profiles: dict[Shape, Profile]

    @classmethod
    def read(cls, path: Path, user_classes: Collection[str]) -> Self:
        """Read a file of profiles by shape.

        Args:
            path: a YAML file.
            user_classes: the names that limits may be given for.

        Raises:
            LoadTestError: names the entry that is unknown, missing or no such value.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LoadTestError(f"{path} is missing: it has the load and the limits of each shape.") from None
        except yaml.YAMLError as error:
            raise LoadTestError(f"{path} is not YAML: {error}") from error
        try:
            thresholds = cls(profiles=content)
        except ValidationError as error:
            raise LoadTestError(f"{path}: {_told(error)}") from error
        for shape, profile in thresholds.profiles.items():
            for name in profile.limits:
                if name not in user_classes:
                    known = ", ".join(user_classes)
                    raise LoadTestError(f"{path}: {shape}.limits.{name}: unknown user class; there are {known}.")
        return thresholds

    def profile(self, shape: Shape) -> Profile:
        """The profile of a shape.

        Raises:
            LoadTestError: there is none.
        """
        if shape not in self.profiles:
            raise LoadTestError(f"There is no profile of the shape {shape}; there are {', '.join(self.profiles)}.")
        return self.profiles[shape]


def _told(error: ValidationError) -> str:
    """The first error as a sentence; for an unknown entry, with the known ones."""
    first: Any = error.errors()[0]
    path = list(first["loc"])[1:]  # below `profiles`, which the file itself is
    place = ".".join(str(part) for part in path if part != "[key]") or "the file"
    if first["type"] == "extra_forbidden":
        owners: dict[object, type[BaseModel]] = {"load": Load, "limits": Limits}
        owner = owners[path[1]] if len(path) > 2 else Profile
        return f"{place}: unknown; there are {', '.join(owner.model_fields)}."
    return f"{place}: {first['msg']}."

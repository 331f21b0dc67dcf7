"""The settings of the worker: environment variables, as the service has them."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contract.errors import StartupError
from ledger.jobs import DEFAULT_COOLDOWN_MINUTES, DEFAULT_MINIMUM_ROWS, Limits
from loop.schedule import check


class LoopSettings(BaseModel):
    """Every setting of the worker, named after its environment variable."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    LOOP_SCHEDULE: Annotated[str, AfterValidator(check)] = Field(
        default="", description="When every model is retrained: cron syntax, UTC. Empty: never by the clock."
    )
    LOOP_DRIFT_SCHEDULE: Annotated[str, AfterValidator(check)] = Field(
        default="5 * * * *", description="When drift is searched for in the last 24 hours. Empty: never by the worker."
    )
    RETRAIN_COOLDOWN_MINUTES: float = Field(
        default=DEFAULT_COOLDOWN_MINUTES, ge=0, description="Between two retrainings of a model."
    )
    RETRAIN_MINIMUM_ROWS: int = Field(
        default=DEFAULT_MINIMUM_ROWS, ge=0, description="New labelled rows that a retraining needs."
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "LoopSettings":
        """Read the settings; an empty variable counts as unset.

        Raises:
            StartupError: names each variable that does not parse.
        """
        given = {name: environment[name] for name in cls.model_fields if environment.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors(include_url=False))
            raise StartupError(f"{wrong}.") from None

    @property
    def limits(self) -> Limits:
        """When a model may be retrained."""
        return Limits(self.RETRAIN_COOLDOWN_MINUTES * 60, self.RETRAIN_MINIMUM_ROWS)

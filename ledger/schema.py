"""The tables of the ledger. Every change here comes with a migration in ``ledger/migrations``.

Times are microseconds since 1970, UTC. Prediction ids are UUIDv7, so the primary key is in order of time.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.types import TypeEngine

METADATA = MetaData()

Identity = BigInteger().with_variant(Integer, "sqlite")
"""SQLite generates ids only for columns declared INTEGER."""


class PredictionId(TypeDecorator[str]):
    """32 hexadecimal digits in Python, 16 bytes in the database: ``uuid`` in PostgreSQL, a blob in SQLite.

    Three indexes hold it: as text it would take 48 bytes more of each prediction.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL has a type of its own."""
        return dialect.type_descriptor(Uuid() if dialect.name == "postgresql" else LargeBinary(16))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> UUID | bytes | None:
        """The value for the driver."""
        if value is None:
            return None
        return UUID(hex=value) if dialect.name == "postgresql" else bytes.fromhex(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """The value for us."""
        if value is None:
            return None
        digits: str = value.hex if dialect.name == "postgresql" else value.hex()
        return digits


MODELS = Table(
    "models",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("model", String(64), nullable=False),
    Column("version", String(128), nullable=False),
    Column("features", Text, nullable=False, comment="names of the features, in order: JSON"),
    Column("outputs", Text, nullable=False, comment="names of the classes, in order, or of the target: JSON"),
    Column("bins", Text, comment="edges of the bins of predicted values: JSON; NULL for classes"),
    UniqueConstraint("model", "version"),
    comment="each version of a model that has predicted",
)

PREDICTIONS = Table(
    "predictions",
    METADATA,
    Column("id", PredictionId, primary_key=True),
    Column("time_us", BigInteger, nullable=False, comment="that is in the id"),
    # Of `models`. A foreign key would be checked for each row: a third of what PostgreSQL's server does for it.
    Column("model_id", Integer, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("protocol", String(8), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("milliseconds", Float, nullable=False),
    Column("features", LargeBinary, comment="[rows, features]: ledger/values.py; NULL where they are not kept"),
    Column("outputs", LargeBinary, nullable=False, comment="[rows, outputs]: ledger/values.py"),
    # Newest first: the id is in order of time.
    Index("predictions_by_model", "model_id", "id"),
    Index("predictions_by_request", "request_id", "id"),
    comment="one call each, with one row or many",
)

MINUTES = Table(
    "minutes",
    METADATA,
    Column("minute", BigInteger, primary_key=True, comment="minutes since 1970; older than a day: of a whole hour"),
    Column("model_id", Integer, ForeignKey("models.id"), primary_key=True),
    Column("protocol", String(8), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False, comment="that these predictions take, about"),
    Column("latency", LargeBinary, nullable=False, comment="requests by bucket of milliseconds: ledger/histogram.py"),
    Column("distribution", LargeBinary, nullable=False, comment="rows by predicted class, or by bin of the value"),
    comment="sums of predictions, kept with each insert, so that statistics do not read the rows",
)

ERRORS = Table(
    "errors",
    METADATA,
    Column("minute", BigInteger, primary_key=True, comment="minutes since 1970; older than a day: of a whole hour"),
    Column("model", String(64), primary_key=True),
    Column("protocol", String(8), primary_key=True),
    Column("status", SmallInteger, primary_key=True, comment="of HTTP; for gRPC, the one that HTTP would have"),
    Column("requests", BigInteger, nullable=False),
    comment="requests that were refused or failed",
)

LABELS = Table(
    "labels",
    METADATA,
    Column("minute", BigInteger, primary_key=True, comment="of the prediction, as in minutes"),
    Column("model_id", Integer, ForeignKey("models.id"), primary_key=True),
    Column("rows", BigInteger, nullable=False),
    comment="rows with feedback, kept with each insert into feedback",
)

SEGMENTS = Table(
    "segments",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("position", BigInteger, nullable=False, comment="bytes that are committed"),
    Column("time_us", BigInteger, nullable=False, comment="of the last commit"),
    comment="how far each spool segment is read: written in the transaction of its records, so none comes twice",
)

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    Column("prediction_id", PredictionId, primary_key=True),
    Column("time_us", BigInteger, nullable=False),
    comment="predictions that were to be forgotten before they were here: they are left out when they come",
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("prediction_id", PredictionId, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("model_id", Integer, ForeignKey("models.id"), nullable=False),
    Column("predicted_us", BigInteger, nullable=False, comment="time of the prediction"),
    Column("received_us", BigInteger, nullable=False),
    Column("actual", Float, nullable=False, comment="the value, or the index of the class"),
    Column("predicted", Float, nullable=False, comment="the value, or the index of the likeliest class"),
    Column("probability", Float, comment="that was given to the actual class; NULL for regression"),
    # It holds all that live quality reads, so that the rows themselves are not read.
    Index("feedback_by_model", "model_id", "predicted_us", "actual", "predicted", "probability"),
    comment="what came true, beside what was predicted",
)

CORRECTIONS = Table(
    "corrections",
    METADATA,
    Column("id", Identity, primary_key=True),
    Column("prediction_id", PredictionId, nullable=False),
    Column("row", Integer, nullable=False),
    Column("actual", Float, nullable=False, comment="the former value"),
    Column("received_us", BigInteger, nullable=False, comment="when the former value came"),
    Column("replaced_us", BigInteger, nullable=False),
    Index("corrections_by_prediction", "prediction_id", "row"),
    comment="what feedback was replaced",
)

WAITING = Table(
    "waiting",
    METADATA,
    Column("prediction_id", PredictionId, primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("actual", Text, nullable=False, comment="as it was sent: JSON"),
    Column("received_us", BigInteger, nullable=False),
    comment="feedback whose prediction is not here yet: kept for an hour",
)

QUALITY = Table(
    "quality",
    METADATA,
    Column("model_id", Integer, ForeignKey("models.id"), primary_key=True),
    Column("feedback_us", BigInteger, nullable=False, comment="when feedback on it last came"),
    Column("computed_us", BigInteger, comment="NULL where it was not computed yet"),
    Column("summary", Text, comment="by window: JSON"),
    comment="live quality of each version that has feedback, computed by the drainer",
)

DRIFT = Table(
    "drift",
    METADATA,
    Column("id", Identity, primary_key=True),
    Column("time_us", BigInteger, nullable=False, comment="when it was looked for"),
    Column("model_id", Integer, ForeignKey("models.id"), nullable=False),
    Column("since_us", BigInteger, nullable=False, comment="the window: from this time"),
    Column("until_us", BigInteger, nullable=False, comment="the window: before this time"),
    Column("rows", Integer, nullable=False, comment="that were compared"),
    Column("verdict", String(16), nullable=False, comment="drift, no drift, too few rows"),
    Column("result", Text, nullable=False, comment="model.drift.Drift: JSON"),
    Index("drift_by_model", "model_id", "time_us"),
    comment="what the search for drift has found, in windows of the predictions",
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Identity, primary_key=True),
    Column("model", String(64), nullable=False),
    Column("kind", String(16), nullable=False, comment="retrain"),
    Column("trigger", String(16), nullable=False, comment="person, schedule, drift, quality, alert"),
    Column("who", String(64), nullable=False, comment="of a key, its label"),
    Column("state", String(8), nullable=False, comment="queued, running, done, refused, failed"),
    Column("stage", String(200), nullable=False),
    Column("progress", Float, nullable=False, comment="0 to 1"),
    Column("log", Text, nullable=False, comment="its end"),
    Column("reason", Text, comment="why it ended as it did: a sentence"),
    Column("result", Text, comment="figures: JSON"),
    Column("owner", String(128), comment="the worker that has the lease, and its claim"),
    Column("heartbeat_us", BigInteger, comment="the lease ends a while after it"),
    Column("attempts", SmallInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger, comment="of the last attempt"),
    Column("finished_us", BigInteger),
    # The database itself allows at most one running job.
    Index(
        "one_running_job",
        "state",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index("jobs_by_model", "model", "id"),
    comment="work for the worker of the loop",
)

WORKERS = Table(
    "workers",
    METADATA,
    Column("name", String(128), primary_key=True),
    Column("started_us", BigInteger, nullable=False),
    Column("heartbeat_us", BigInteger, nullable=False),
    comment="workers of the loop, and when each was last seen",
)

ACTIONS = Table(
    "actions",
    METADATA,
    Column("id", Identity, primary_key=True),
    Column("time_us", BigInteger, nullable=False),
    Column("route", String(64), nullable=False),
    Column("key", String(16), nullable=False, comment="the first digits of the hash of the key that was used"),
    Column("client", String(64), nullable=False, comment="address"),
    Column("request_id", String(128), nullable=False),
    Column("status", SmallInteger, nullable=False),
    comment="who did what on an admin route",
)

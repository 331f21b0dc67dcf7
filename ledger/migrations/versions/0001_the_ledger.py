"""The ledger."""

import sqlalchemy as sa
from alembic import op

from ledger.schema import PredictionId

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column(
            "key", sa.String(length=16), nullable=False, comment="the first digits of the hash of the key that was used"
        ),
        sa.Column("client", sa.String(length=64), nullable=False, comment="address"),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="who did what on an admin route",
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("prediction_id", PredictionId(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("actual", sa.Float(), nullable=False, comment="the former value"),
        sa.Column("received_us", sa.BigInteger(), nullable=False, comment="when the former value came"),
        sa.Column("replaced_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="what feedback was replaced",
    )
    op.create_index("corrections_by_prediction", "corrections", ["prediction_id", "row"], unique=False)
    op.create_table(
        "errors",
        sa.Column(
            "minute",
            sa.BigInteger(),
            nullable=False,
            comment="minutes since 1970; older than a day: of a whole hour",
        ),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column(
            "status", sa.SmallInteger(), nullable=False, comment="of HTTP; for gRPC, the one that HTTP would have"
        ),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "model", "protocol", "status"),
        comment="requests that were refused or failed",
    )
    op.create_table(
        "forgotten",
        sa.Column("prediction_id", PredictionId(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prediction_id"),
        comment="predictions that were to be forgotten before they were here: they are left out when they come",
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("features", sa.Text(), nullable=False, comment="names of the features, in order: JSON"),
        sa.Column(
            "outputs", sa.Text(), nullable=False, comment="names of the classes, in order, or of the target: JSON"
        ),
        sa.Column(
            "bins", sa.Text(), nullable=True, comment="edges of the bins of predicted values: JSON; NULL for classes"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "version"),
        comment="each version of a model that has predicted",
    )
    op.create_table(
        "segments",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="bytes that are committed"),
        sa.Column("time_us", sa.BigInteger(), nullable=False, comment="of the last commit"),
        sa.PrimaryKeyConstraint("name"),
        comment="how far each spool segment is read: written in the transaction of its records, so none comes twice",
    )
    op.create_table(
        "waiting",
        sa.Column("prediction_id", PredictionId(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("actual", sa.Text(), nullable=False, comment="as it was sent: JSON"),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prediction_id", "row"),
        comment="feedback whose prediction is not here yet: kept for an hour",
    )
    op.create_table(
        "feedback",
        sa.Column("prediction_id", PredictionId(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("predicted_us", sa.BigInteger(), nullable=False, comment="time of the prediction"),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.Column("actual", sa.Float(), nullable=False, comment="the value, or the index of the class"),
        sa.Column("predicted", sa.Float(), nullable=False, comment="the value, or the index of the likeliest class"),
        sa.Column(
            "probability", sa.Float(), nullable=True, comment="that was given to the actual class; NULL for regression"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("prediction_id", "row"),
        comment="what came true, beside what was predicted",
    )
    op.create_index(
        "feedback_by_model",
        "feedback",
        ["model_id", "predicted_us", "actual", "predicted", "probability"],
        unique=False,
    )
    op.create_table(
        "quality",
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("feedback_us", sa.BigInteger(), nullable=False, comment="when feedback on it last came"),
        sa.Column("computed_us", sa.BigInteger(), nullable=True, comment="NULL where it was not computed yet"),
        sa.Column("summary", sa.Text(), nullable=True, comment="by window: JSON"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("model_id"),
        comment="live quality of each version that has feedback, computed by the drainer",
    )
    op.create_table(
        "labels",
        sa.Column("minute", sa.BigInteger(), nullable=False, comment="of the prediction, as in minutes"),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("minute", "model_id"),
        comment="rows with feedback, kept with each insert into feedback",
    )
    op.create_table(
        "minutes",
        sa.Column(
            "minute",
            sa.BigInteger(),
            nullable=False,
            comment="minutes since 1970; older than a day: of a whole hour",
        ),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="that these predictions take, about"),
        sa.Column(
            "latency",
            sa.LargeBinary(),
            nullable=False,
            comment="requests by bucket of milliseconds: ledger/histogram.py",
        ),
        sa.Column(
            "distribution", sa.LargeBinary(), nullable=False, comment="rows by predicted class, or by bin of the value"
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("minute", "model_id", "protocol"),
        comment="sums of predictions, kept with each insert, so that statistics do not read the rows",
    )
    op.create_table(
        "predictions",
        sa.Column("id", PredictionId(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False, comment="that is in the id"),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("milliseconds", sa.Float(), nullable=False),
        sa.Column(
            "features",
            sa.LargeBinary(),
            nullable=True,
            comment="[rows, features]: ledger/values.py; NULL where they are not kept",
        ),
        sa.Column("outputs", sa.LargeBinary(), nullable=False, comment="[rows, outputs]: ledger/values.py"),
        sa.PrimaryKeyConstraint("id"),
        comment="one call each, with one row or many",
    )
    if op.get_context().dialect.name == "postgresql":
        # To try and compress floats costs a third of the server's time for a record of 1,000 rows.
        for column in ("features", "outputs"):
            op.execute(f"ALTER TABLE predictions ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.create_index("predictions_by_model", "predictions", ["model_id", "id"], unique=False)
    op.create_index("predictions_by_request", "predictions", ["request_id", "id"], unique=False)


def downgrade() -> None:
    """Back."""
    op.drop_index("predictions_by_request", table_name="predictions")
    op.drop_index("predictions_by_model", table_name="predictions")
    op.drop_table("predictions")
    op.drop_table("minutes")
    op.drop_table("labels")
    op.drop_table("quality")
    op.drop_index("feedback_by_model", table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("waiting")
    op.drop_table("segments")
    op.drop_table("models")
    op.drop_table("forgotten")
    op.drop_table("errors")
    op.drop_index("corrections_by_prediction", table_name="corrections")
    op.drop_table("corrections")
    op.drop_table("actions")

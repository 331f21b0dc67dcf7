"""The table drift."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "drift",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False, comment="when it was looked for"),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False, comment="the window: from this time"),
        sa.Column("until_us", sa.BigInteger(), nullable=False, comment="the window: before this time"),
        sa.Column("rows", sa.Integer(), nullable=False, comment="that were compared"),
        sa.Column("verdict", sa.String(length=16), nullable=False, comment="drift, no drift, too few rows"),
        sa.Column("result", sa.Text(), nullable=False, comment="model.drift.Drift: JSON"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
        comment="what the search for drift has found, in windows of the predictions",
    )
    op.create_index("drift_by_model", "drift", ["model_id", "time_us"], unique=False)


def downgrade() -> None:
    """Back."""
    op.drop_index("drift_by_model", table_name="drift")
    op.drop_table("drift")

"""The tables jobs and workers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="retrain"),
        sa.Column("trigger", sa.String(length=16), nullable=False, comment="person, schedule, drift, quality, alert"),
        sa.Column("who", sa.String(length=64), nullable=False, comment="of a key, its label"),
        sa.Column("state", sa.String(length=8), nullable=False, comment="queued, running, done, refused, failed"),
        sa.Column("stage", sa.String(length=200), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False, comment="0 to 1"),
        sa.Column("log", sa.Text(), nullable=False, comment="its end"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it ended as it did: a sentence"),
        sa.Column("result", sa.Text(), nullable=True, comment="figures: JSON"),
        sa.Column(
            "owner", sa.String(length=128), nullable=True, comment="the worker that has the lease, and its claim"
        ),
        sa.Column("heartbeat_us", sa.BigInteger(), nullable=True, comment="the lease ends a while after it"),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=True, comment="of the last attempt"),
        sa.Column("finished_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="work for the worker of the loop",
    )
    op.create_index(
        "one_running_job",
        "jobs",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("jobs_by_model", "jobs", ["model", "id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        comment="workers of the loop, and when each was last seen",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("workers")
    op.drop_index("jobs_by_model", table_name="jobs")
    op.drop_index("one_running_job", table_name="jobs")
    op.drop_table("jobs")

"""The table of predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make it."""
    op.create_table(
        "predictions",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("predicted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mail_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("confidences", sa.JSON, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("bundle_digest", sa.String(64), nullable=False),
        sa.Column("taxonomy_version", sa.Text, nullable=False),
        sa.Column("cleaning_version", sa.Text, nullable=False),
        sa.Column("body_characters", sa.Integer, nullable=False),
        sa.Column("cleaned_characters", sa.Integer, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Float, nullable=False),
    )
    op.create_index("ix_predictions_mail_id", "predictions", ["mail_id"])
    op.create_index("ix_predictions_predicted_at", "predictions", ["predicted_at"])


def downgrade() -> None:
    """Drop it, with all that was recorded."""
    op.drop_table("predictions")

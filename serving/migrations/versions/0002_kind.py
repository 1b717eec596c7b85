"""What was asked for: labels, or the words that decided."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add it; servers of the release before, which do not know it, write predictions only."""
    op.add_column("predictions", sa.Column("kind", sa.String(16), nullable=False, server_default="predict"))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("predictions", "kind")

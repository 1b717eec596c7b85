"""Alembic's entry: runs the migrations on the connection that `PredictionStore.prepare` hands over."""

from alembic import context

from serving.prediction_store import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()

"""Where predictions are kept: a table in SQLite or PostgreSQL, made and changed by Alembic.

A row says what was answered and from what; never the text of a mail.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

from mailtriage.errors import ConfigError

MIGRATIONS = Path(__file__).with_name("migrations")
VERSION_TABLE = "mailtriage_schema"  # not Alembic's own name: MLflow may keep its tables in the same database
MIGRATION_LOCK = 0x6D61696C  # replicas that start together wait for one another (PostgreSQL)
WAIT_SECONDS = 5  # for a connection, and for a lock that another holds

METADATA = sa.MetaData()
PREDICTIONS = sa.Table(
    "predictions",
    METADATA,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("predicted_at", sa.DateTime(timezone=True), nullable=False, index=True),
    sa.Column("mail_id", sa.Text, nullable=False, index=True),
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
    sa.Column("kind", sa.String(16), nullable=False, server_default="predict"),
)


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One row. `labels` and `confidences` have a value a task; `latency_ms` is the whole request's.

    `kind` says what was asked for: `predict`, or `explain`, which gives labels and a decision, too.
    """

    mail_id: str
    request_id: str
    client: str
    decision: str
    labels: Mapping[str, str]
    confidences: Mapping[str, float]
    model_version: str
    bundle_digest: str
    taxonomy_version: str
    cleaning_version: str
    body_characters: int
    cleaned_characters: int
    tokens: int
    latency_ms: float
    kind: str = "predict"
    predicted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    # Made once, so that a batch whose commit was in doubt can be written again without doubling a row.
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_row(self) -> dict[str, Any]:
        """Column -> value. PostgreSQL's texts hold no null characters, so they become the replacement character."""
        row = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return {name: value.replace("\0", "�") if isinstance(value, str) else value for name, value in row.items()}


class PredictionStore:
    """Writes records; raises SQLAlchemy's errors, without the values of a row in them.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Raises:
        ConfigError: another kind of URL; its password is not shown.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_store_url(url)
        self.engine = sa.create_engine(
            self._url, hide_parameters=True, pool_size=1, pool_pre_ping=True, connect_args=_connect_arguments(self._url)
        )
        if self._url.get_backend_name() == "sqlite":
            # Readers do not wait for the writer, and a killed process loses nothing that was committed.
            sa.event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))

    @property
    def name(self) -> str:
        """The URL without its password, for logs."""
        return self._url.render_as_string(hide_password=True)

    def prepare(self) -> None:
        """Make the tables, or bring those of an earlier release up to date.

        Those of a later one, after a rollback, stay: a release adds only columns that need no value.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory

        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if found is None or found in known:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def write(self, records: Sequence[PredictionRecord]) -> None:
        """Commit these records; one that is there already is left as it is."""
        insert = sqlite.insert if self._url.get_backend_name() == "sqlite" else postgresql.insert
        with self.engine.begin() as connection:
            connection.execute(
                insert(PREDICTIONS).on_conflict_do_nothing(index_elements=["key"]), [r.to_row() for r in records]
            )

    def close(self) -> None:
        self.engine.dispose()


def parse_store_url(url: str) -> URL:
    """The URL with the driver that the serving image has; raises as `PredictionStore` does."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            "expected the database of predictions as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE, found "
            + (f"the kind '{parsed.get_backend_name()}'" if parsed else "no URL")
        )
    return parsed.set(drivername="sqlite+pysqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+psycopg")


def _connect_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": WAIT_SECONDS}
    milliseconds = WAIT_SECONDS * 1000
    return {
        "connect_timeout": WAIT_SECONDS,
        # A host that is gone without a word would otherwise hold the writer for two hours.
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
        "tcp_user_timeout": 2 * milliseconds,
    }

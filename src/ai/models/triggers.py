"""The database triggers behind `ModelCapability` and `ConfigStamp`, for PostgreSQL and SQLite.

They are installed after every `migrate` rather than by one migration, as SQLite drops a table's triggers when a later
migration rebuilds the table. A trigger's name ends in a digest of its SQL, so that installing again is one query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from django.apps.registry import Apps
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from src.ai.models.ai_provider import AdminProviderSettings, AIModel, AIProvider, ModelCapability
from src.ai.models.config_stamp import ConfigStamp

PREFIX = "ai_trigger_"
CAPABILITY_COLUMNS = "id, provider_id, capabilities, is_active"
# Never served from a cache.
BOOKKEEPING = {"updated_at"}

MODELS = AIModel._meta.db_table
CAPABILITIES = ModelCapability._meta.db_table
STAMP = ConfigStamp._meta.db_table


def install_triggers(using: str = "default", apps: Apps | None = None, **_signal: Any) -> None:
    """Make the triggers of the database `using` those of this module: a receiver of `post_migrate`.

    Raises:
        NotImplementedError: the database is neither PostgreSQL nor SQLite.
    """
    connection = connections[using]
    if connection.vendor not in _DIALECTS:
        raise NotImplementedError(f"The AI app keeps its invariants on PostgreSQL and SQLite, not {connection.vendor}.")
    if not {MODELS, CAPABILITIES, STAMP} <= set(connection.introspection.table_names()):
        return  # migrated back to before the tables, or not yet there
    listing, triggers = _DIALECTS[connection.vendor]
    wanted = {PREFIX + _digest(table + sql): (table, sql) for table, sql in triggers(_settable_columns(connection))}
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute(listing, [f"{PREFIX}%"])
        present: dict[str, str] = dict(cursor.fetchall())
        for name in present.keys() - wanted.keys():
            cursor.execute(_drop(connection, name, present[name]))
        for name in wanted.keys() - present.keys():
            table, sql = wanted[name]
            cursor.execute(sql.format(name=name, table=table))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _drop(connection: BaseDatabaseWrapper, name: str, table: str) -> str:
    if connection.vendor == "sqlite":
        return f"DROP TRIGGER {name}"
    return f"DROP FUNCTION {name}() CASCADE"


def _postgres(settable: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield (
        MODELS,
        f"""
        CREATE OR REPLACE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_OP = 'UPDATE' AND ROW(OLD.provider_id, OLD.capabilities, OLD.is_active)
                IS NOT DISTINCT FROM ROW(NEW.provider_id, NEW.capabilities, NEW.is_active) THEN RETURN NULL; END IF;
            IF TG_OP <> 'INSERT' THEN DELETE FROM {CAPABILITIES} WHERE model_id = OLD.id; END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO {CAPABILITIES} (model_id, provider_id, capability, is_active)
                SELECT DISTINCT NEW.id, NEW.provider_id, capability, NEW.is_active
                FROM jsonb_array_elements_text(NEW.capabilities) AS capability;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER {{name}} AFTER INSERT OR DELETE OR UPDATE OF {CAPABILITY_COLUMNS} ON {{table}}
        FOR EACH ROW EXECUTE FUNCTION {{name}}();
        """,
    )
    for table, columns in settable.items():
        yield (
            table,
            f"""
            CREATE OR REPLACE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO {STAMP} (id, value) VALUES ({ConfigStamp.ONLY_ID}, gen_random_uuid()::text)
                ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value;
                RETURN NULL;
            END $$;
            CREATE TRIGGER {{name}}
            AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {{table}}
            FOR EACH STATEMENT EXECUTE FUNCTION {{name}}();
            """,
        )


def _sqlite(settable: dict[str, str]) -> Iterator[tuple[str, str]]:
    # RAISE and not the unique index alone: INSERT OR REPLACE and OR IGNORE change what a conflict does in a trigger.
    insert_rows = f"""
        DELETE FROM {CAPABILITIES} WHERE model_id = NEW.id;
        SELECT RAISE(ABORT, 'UNIQUE constraint failed: ai_one_active_model') WHERE NEW.is_active AND EXISTS (
            SELECT 1 FROM {CAPABILITIES} WHERE provider_id = NEW.provider_id AND is_active
            AND capability IN (SELECT value FROM json_each(NEW.capabilities)));
        INSERT INTO {CAPABILITIES} (model_id, provider_id, capability, is_active)
        SELECT DISTINCT NEW.id, NEW.provider_id, value, NEW.is_active FROM json_each(NEW.capabilities);
    """
    delete_rows = f"DELETE FROM {CAPABILITIES} WHERE model_id = OLD.id;"
    before, after = (f"({row}.provider_id, {row}.capabilities, {row}.is_active)" for row in ("OLD", "NEW"))
    for event, condition, body in (
        ("INSERT", "1", insert_rows),
        (f"UPDATE OF {CAPABILITY_COLUMNS}", f"{before} IS NOT {after}", delete_rows + insert_rows),
        ("DELETE", "1", delete_rows),
    ):
        yield MODELS, f"CREATE TRIGGER {{name}} AFTER {event} ON {{table}} WHEN {condition} BEGIN {body} END"
    new_stamp = f"""
        UPDATE {STAMP} SET value = lower(hex(randomblob(16)));
        INSERT INTO {STAMP} (id, value) SELECT {ConfigStamp.ONLY_ID}, lower(hex(randomblob(16)))
        WHERE NOT EXISTS (SELECT 1 FROM {STAMP});
    """
    for table, columns in settable.items():
        for event in ("INSERT", f"UPDATE OF {columns}", "DELETE"):
            yield table, f"CREATE TRIGGER {{name}} AFTER {event} ON {{table}} BEGIN {new_stamp} END"


_DIALECTS = {
    "postgresql": (
        "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE %s",
        _postgres,
    ),
    "sqlite": ("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s", _sqlite),
}


def _settable_columns(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """By table, the columns whose change drops what is cached. After migrating back, those left."""
    columns = {}
    with connection.cursor() as cursor:
        for model in (AIProvider, AIModel, AdminProviderSettings):
            table = model._meta.db_table
            present = {column.name for column in connection.introspection.get_table_description(cursor, table)}
            wanted = [field.column for field in model._meta.concrete_fields if field.name not in BOOKKEEPING]
            columns[table] = ", ".join(str(column) for column in wanted if column in present)
    return columns

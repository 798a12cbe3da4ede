"""The database triggers behind `ModelCapability` and `ConfigStamp`, for PostgreSQL and SQLite.

They are installed after every `migrate` rather than by one migration, as SQLite drops a table's triggers when a later
migration rebuilds the table. A trigger's name ends in a digest of its SQL, so that installing again is one query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from django.apps.registry import Apps
from django.contrib.auth import get_user_model
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from src.ai.models.ai_provider import AdminProviderSettings, AIModel, AIProvider, ModelCapability
from src.ai.models.api_token import APIToken, access_fields
from src.ai.models.config_stamp import ConfigStamp

PREFIX = "ai_trigger_"
CAPABILITY_COLUMNS = "id, provider_id, capabilities, is_active"
# Never served from a cache.
BOOKKEEPING = {"updated_at", "last_used_at"}

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
    listing, triggers = _DIALECTS[connection.vendor]
    tables = set(connection.introspection.table_names())
    wanted = {}
    if {MODELS, CAPABILITIES, STAMP} <= tables:  # else migrated back to before them, or not yet there
        found = ((table, sql) for table, sql in triggers(connection) if table in tables)
        wanted = {PREFIX + _digest(table + sql): (table, sql) for table, sql in found}
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute(listing, [f"{PREFIX}%"])
        present: dict[str, bool] = dict(cursor.fetchall())
        kept = {name for name, is_whole in present.items() if is_whole and name in wanted}
        for name in present.keys() - kept:
            cursor.execute(_drop(connection, name))
        for name in wanted.keys() - kept:
            table, sql = wanted[name]
            cursor.execute(sql.format(name=name, table=connection.ops.quote_name(table)))
    if wanted and not ConfigStamp.objects.using(using).exists():
        ConfigStamp.objects.using(using).create(pk=ConfigStamp.ONLY_ID, value=str(uuid4()))


def remove_triggers(using: str = "default", plan: Sequence[object] = (), **_signal: Any) -> None:
    """Take the triggers of a SQLite database away while migrations run: a receiver of `pre_migrate`.

    SQLite refuses to rename or drop what a trigger names, in whichever table.
    """
    connection = connections[using]
    if not plan or connection.vendor != "sqlite":
        return
    listing, _triggers = _DIALECTS[connection.vendor]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute(listing, [f"{PREFIX}%"])
        for name, _is_whole in cursor.fetchall():
            cursor.execute(_drop(connection, name))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _drop(connection: BaseDatabaseWrapper, name: str) -> str:
    if connection.vendor == "sqlite":
        return f"DROP TRIGGER {name}"
    return f"DROP FUNCTION {name}() CASCADE"


def watched_tables() -> set[str]:
    """The tables whose changes may make a new stamp."""
    return {model._meta.db_table for model, _ in _stamped_models()} | {get_user_model()._meta.db_table}


def _postgres(connection: BaseDatabaseWrapper) -> Iterator[tuple[str, str]]:
    yield (
        MODELS,
        f"""
        CREATE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
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
    new_stamp = f"""
        INSERT INTO {STAMP} (id, value) VALUES ({ConfigStamp.ONLY_ID}, gen_random_uuid()::text)
        ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value;
    """
    for model, on_insert in _stamped_models():
        yield (
            model._meta.db_table,
            f"""
            CREATE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {new_stamp} RETURN NULL; END $$;
            CREATE TRIGGER {{name}}
            AFTER {"INSERT OR" if on_insert else ""} TRUNCATE OR UPDATE OF {_settable_columns(model, connection)}
            ON {{table}} FOR EACH STATEMENT EXECUTE FUNCTION {{name}}();
            """,
        )
        # Deleting any user looks for rows to delete here: mostly there are none.
        yield (
            model._meta.db_table,
            f"""
            CREATE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS (SELECT FROM gone) THEN {new_stamp} END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER {{name}} AFTER DELETE ON {{table}} REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION {{name}}();
            """,
        )
    if columns := _access_columns():
        # The columns are named in the function alone: a trigger that names one keeps it from being altered or dropped.
        was, now = (", ".join(f"{row} -> '{column}'" for column in columns) for row in ("was", "now"))
        yield (
            get_user_model()._meta.db_table,
            f"""
            CREATE FUNCTION {{name}}() RETURNS trigger LANGUAGE plpgsql AS $$
            DECLARE was jsonb := to_jsonb(OLD); now jsonb := to_jsonb(NEW);
            BEGIN
                IF 'true' IN (was ->> '{_staff_column()}', now ->> '{_staff_column()}')
                AND ROW({was}) IS DISTINCT FROM ROW({now}) THEN {new_stamp} END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER {{name}} AFTER DELETE OR UPDATE ON {{table}} FOR EACH ROW EXECUTE FUNCTION {{name}}();
            """,
        )


def _sqlite(connection: BaseDatabaseWrapper) -> Iterator[tuple[str, str]]:
    quote = connection.ops.quote_name
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
    for model, on_insert in _stamped_models():
        for event in (
            "DELETE",
            f"UPDATE OF {_settable_columns(model, connection)}",
            *(["INSERT"] if on_insert else []),
        ):
            yield model._meta.db_table, f"CREATE TRIGGER {{name}} AFTER {event} ON {{table}} BEGIN {new_stamp} END"
    if columns := _access_columns():
        was, now = (", ".join(f"{row}.{quote(column)}" for column in columns) for row in ("OLD", "NEW"))
        staff = quote(_staff_column())
        for event, condition in (
            ("UPDATE", f"(OLD.{staff} OR NEW.{staff}) AND ({was}) IS NOT ({now})"),
            ("DELETE", f"OLD.{staff}"),
        ):
            yield (
                get_user_model()._meta.db_table,
                f"CREATE TRIGGER {{name}} AFTER {event} ON {{table}} WHEN {condition} BEGIN {new_stamp} END",
            )


# How to list the names that are there, each with whether all of it is, and what should be there.
_DIALECTS = {
    "postgresql": (
        # A table that is dropped takes its trigger along and leaves the function.
        "SELECT proname, EXISTS (SELECT FROM pg_trigger WHERE tgfoid = pg_proc.oid) FROM pg_proc"
        " WHERE proname LIKE %s AND pg_function_is_visible(oid)",
        _postgres,
    ),
    "sqlite": ("SELECT name, true FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s", _sqlite),
}


def _cached_models() -> tuple[type[models.Model], ...]:
    return (AIProvider, AIModel, AdminProviderSettings)


def _stamped_models() -> Iterator[tuple[type[models.Model], bool]]:
    """Each model of which any change makes a new stamp, and whether a new row does."""
    yield from ((model, True) for model in _cached_models())
    yield APIToken, False  # that there is no such token is never cached


def _settable_columns(model: type[models.Model], connection: BaseDatabaseWrapper) -> str:
    """The columns whose change drops what is cached, as far as they are there: not all are after migrating back."""
    with connection.cursor() as cursor:
        description = connection.introspection.get_table_description(cursor, model._meta.db_table)
    present = {column.name for column in description}
    wanted = [str(field.column) for field in model._meta.concrete_fields if field.name not in BOOKKEEPING]
    return ", ".join(connection.ops.quote_name(column) for column in wanted if column in present)


def _access_columns() -> list[str]:
    return [str(field.column) for field in access_fields()]


def _staff_column() -> str:
    return next(str(field.column) for field in access_fields() if field.name == "is_staff")

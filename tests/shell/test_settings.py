"""What the settings promise: safe when unset, and everything from the environment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import ConnectionHandler, connection
from django.db.utils import OperationalError

ROOT = Path(settings.BASE_DIR)
PRODUCTION = {"SECRET_KEY": "kQ8v-2mZ1xW9-bT5nR7yL3cF6hJ0pD4sG_uE8aVtX1zK5qM2wB7o", "ALLOWED_HOSTS": "example.com"}
PRINT_SETTINGS = """
import json, pathlib
from django.conf import settings
names = [name for name in dir(settings) if name.isupper()]
# A translated label cannot be read before the apps are loaded.
readable = lambda value: str(value) if isinstance(value, pathlib.Path) else None
print(json.dumps({name: getattr(settings, name) for name in names}, default=readable))
"""


def python(*arguments: str, module: str = "config.settings", **environment: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter that sees these variables and none of the project's others."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, "DJANGO_SETTINGS_MODULE": module, "ENV_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def read_settings(module: str = "config.settings", **environment: str) -> dict[str, Any]:
    """The settings as such an interpreter sees them."""
    result = python("-c", PRINT_SETTINGS, module=module, **environment)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_without_a_secret_key_it_says_what_to_set():
    result = python("manage.py", "check")
    assert result.returncode != 0
    assert "SECRET_KEY is not set" in result.stderr
    assert "make run" in result.stderr


def test_what_is_unset_is_safe():
    values = read_settings(SECRET_KEY=PRODUCTION["SECRET_KEY"])
    assert values["DEBUG"] is False
    assert values["ALLOWED_HOSTS"] == []
    assert values["AI_LOCAL"] is False
    assert "src.ai_local" not in values["INSTALLED_APPS"]
    assert values["AI_HTTP_HOSTS"] == []
    assert values["SERVE_MEDIA"] is False
    assert values["REST_FRAMEWORK"]["NUM_PROXIES"] == 0
    assert values["DATABASES"]["default"]["NAME"] == str(ROOT / "db.sqlite3")
    assert "locmem" in values["CACHES"]["default"]["BACKEND"]


def test_production_settings_pass_the_deployment_checks():
    result = python("manage.py", "check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert result.returncode == 0, result.stderr


def test_database_url_brings_postgresql_with_a_connection_pool():
    values = read_settings(**PRODUCTION, DATABASE_URL="postgresql://u:p@db:5433/ai", DATABASE_POOL_MAX_SIZE="7")
    database = values["DATABASES"]["default"]
    assert database["ENGINE"] == "src.core.postgres"
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("db", 5433, "ai")
    assert database["OPTIONS"]["pool"]["max_size"] == 7
    assert database["CONN_MAX_AGE"] == 0


def test_redis_url_brings_django_redis():
    cache_settings = read_settings(**PRODUCTION, REDIS_URL="redis://cache:6379/1")["CACHES"]["default"]
    assert (cache_settings["BACKEND"], cache_settings["LOCATION"]) == (
        "src.core.cache.backend.RedisCache",
        "redis://cache:6379/1",
    )


def test_make_run_has_its_own_key_and_plain_http(tmp_path):
    first = read_settings("config.settings.local", LOCAL_DIR=str(tmp_path))
    again = read_settings("config.settings.local", LOCAL_DIR=str(tmp_path))
    key_file = tmp_path / "secret_key"
    assert first["SECRET_KEY"] == again["SECRET_KEY"] == key_file.read_text()
    assert len(first["SECRET_KEY"]) >= 50
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert first["DEBUG"] is False
    assert first["SECURE_SSL_REDIRECT"] is False
    assert first["ALLOWED_HOSTS"] == ["127.0.0.1", "localhost", "[::1]"]
    assert first["AI_LOCAL"] is True


def test_the_example_lists_exactly_what_the_settings_read():
    code = "".join(path.read_text() for path in (ROOT / "config" / "settings").glob("*.py"))
    read = set(re.findall(r"env\.\w+\(\s*\"([A-Z_]+)\"", code)) | {"DATABASE_URL"}
    listed = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    assert listed == read


@pytest.mark.django_db
def test_sqlite_waits_for_another_writer_and_takes_the_lock_when_it_begins(tmp_path):
    from config.settings import sqlite

    config = sqlite(tmp_path / "db.sqlite3")
    config["OPTIONS"]["timeout"] = 0.1
    one = ConnectionHandler({"default": config})["default"]
    other = ConnectionHandler({"default": config})["default"]
    try:
        with one.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode")
            assert cursor.fetchone() == ("wal",)
            cursor.execute("PRAGMA busy_timeout")
            assert cursor.fetchone() == (100,)
            cursor.execute("BEGIN IMMEDIATE")
        other.ensure_connection()
        with pytest.raises(OperationalError, match="locked"):
            other.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
    finally:
        one.close()
        other.close()


@pytest.mark.postgres
@pytest.mark.django_db
def test_the_suite_really_runs_on_pooled_postgresql():
    assert connection.vendor == "postgresql"
    assert connection.pool is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT version()")
        assert "PostgreSQL" in cursor.fetchone()[0]


@pytest.mark.redis
def test_the_suite_really_runs_on_redis():
    from django_redis import get_redis_connection

    cache.set("shell-test", "value", 5)
    assert get_redis_connection("default").exists(cache.make_key("shell-test"))


async def test_static_files_arrive_under_asgi_without_a_collected_copy():
    from config.asgi import application

    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        style = await client.get("/static/admin/css/base.css")
        missing = await client.get("/static/admin/css/none.css")
    assert style.status_code == 200
    assert style.headers["content-type"].startswith("text/css")
    assert style.headers["x-content-type-options"] == "nosniff"
    assert missing.status_code == 404


def test_static_files_arrive_under_wsgi_too():
    from config.wsgi import application

    with httpx.Client(transport=httpx.WSGITransport(application), base_url="http://localhost") as client:
        assert client.get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css").status_code == 200


def test_the_front_page_leads_to_the_documentation(client):
    response = client.get("/")
    assert (response.status_code, response["Location"]) == (302, "/api/docs/")

"""Settings of the test suite: SQLite and memory, or the services that DATABASE_URL and REDIS_URL name."""

import atexit
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from config.settings import *
from config.settings import CACHES, DATABASE_URL, INSTALLED_APPS, LOGGING, REDIS_URL, STORAGES, env, sqlite

# Removed when the process ends; one per process, so that parallel runs do not meet.
scratch = TemporaryDirectory(prefix="dynamic-ai-test-", ignore_cleanup_errors=True)
atexit.register(scratch.cleanup)

DEBUG = False
SECRET_KEY = "only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFG"  # noqa: S105 (protects nothing)
ALLOWED_HOSTS = ["testserver", "127.0.0.1", "localhost"]

SECURE_SSL_REDIRECT = False
SECURE_HSTS_SECONDS = 0
SESSION_COOKIE_SECURE = False
CSRF_COOKIE_SECURE = False
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if not DATABASE_URL:
    # A file, not ":memory:": threads then use connections of their own, as they do in production.
    DATABASES = {
        "default": {**sqlite(Path(scratch.name) / "db.sqlite3"), "TEST": {"NAME": f"{scratch.name}/test.sqlite3"}}
    }
if REDIS_URL:
    # Clearing the cache empties a Redis database: each parallel worker has one of its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = urlsplit(REDIS_URL)
    REDIS_URL = parts._replace(path=f"/{int(parts.path.strip('/') or 0) + worker}").geturl()
    CACHES["default"]["LOCATION"] = REDIS_URL
MEDIA_ROOT = Path(scratch.name) / "media"
SERVE_MEDIA = True
STATIC_COLLECTED = False
STORAGES = {**STORAGES, "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}

AI_LOCAL = True
if "src.ai_local" not in INSTALLED_APPS:
    INSTALLED_APPS = [*INSTALLED_APPS, "src.ai_local"]
AI_HTTP_HOSTS = ["127.0.0.1", "localhost"]
# A process that serves a test sweeps only where the test says so.
AI_SWEEP_INTERVAL = env.float("AI_SWEEP_INTERVAL", default=0)

LOGGING = {**LOGGING, "root": {"handlers": ["console"], "level": "WARNING"}}

"""Settings of `make run`: this machine only, plain HTTP, everything it keeps is in `.local/`.

The environment and `.env` still win, except where that would stop the pages from being reached on localhost.
"""

import secrets
from pathlib import Path

from config.settings import *
from config.settings import (
    ALLOWED_HOSTS,
    BASE_DIR,
    DATABASE_URL,
    INSTALLED_APPS,
    SECRET_KEY,
    STORAGES,
    env,
    sqlite,
)
from src.core.files import write_private

LOCAL_DIR = BASE_DIR / env.str("LOCAL_DIR", default=".local")
LOCAL_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)


def kept_secret_key(path: Path) -> str:
    """The key in this file, which is made on first use."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(64))
    return path.read_text(encoding="utf-8").strip()


DEBUG = False
SECRET_KEY = SECRET_KEY or kept_secret_key(LOCAL_DIR / "secret_key")
ALLOWED_HOSTS = [*ALLOWED_HOSTS, "127.0.0.1", "localhost", "[::1]"]

SECURE_SSL_REDIRECT = False
SECURE_HSTS_SECONDS = 0
SESSION_COOKIE_SECURE = False
CSRF_COOKIE_SECURE = False

if not DATABASE_URL:
    DATABASES = {"default": sqlite(BASE_DIR / env.str("SQLITE_PATH", default=str(LOCAL_DIR / "db.sqlite3")))}
MEDIA_ROOT = BASE_DIR / env.str("MEDIA_ROOT", default=str(LOCAL_DIR / "media"))
SERVE_MEDIA = env.bool("SERVE_MEDIA", default=True)
STATIC_COLLECTED = False
STORAGES = {**STORAGES, "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}

AI_LOCAL = env.bool("AI_LOCAL", default=True)
if AI_LOCAL and "src.ai_local" not in INSTALLED_APPS:
    INSTALLED_APPS = [*INSTALLED_APPS, "src.ai_local"]
AI_HTTP_HOSTS = env.list("AI_HTTP_HOSTS", default=["127.0.0.1", "localhost"])

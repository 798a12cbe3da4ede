"""What the warm server process holds, from which the others are forked: Django, and what a server imports late."""

import os
from importlib import import_module

import django
from django.conf import settings
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.test")
os.environ["ENV_FILE"] = os.devnull
django.setup()

LATE = (
    "django_redis.client",
    "openai.resources.chat.completions",
    "psycopg_pool",
    "redis.asyncio",
    "tests.ledger.child",
    "uvicorn.lifespan.off",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)
for name in (*LATE, *(name.rpartition(".")[0] for name in settings.MIDDLEWARE)):
    import_module(name)
get_resolver().url_patterns  # noqa: B018 (loads the views)

"""Settings for production: everything comes from the environment, and what is unset is safe.

`config.settings.local` (`make run`) and `config.settings.test` start from these. `.env.example` lists the variables.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parents[2]

env = environ.Env()
env_file = BASE_DIR / os.environ.get("ENV_FILE", ".env")
if env_file.is_file():
    env.read_env(env_file)

# --- The essentials ---------------------------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# Local and test settings bring a key of their own after importing this module.
if not SECRET_KEY and os.environ.get("DJANGO_SETTINGS_MODULE") == __name__:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Put a long random value in the environment or in .env, for example from: "
        'python -c "import secrets; print(secrets.token_urlsafe(64))". '
        "To just try the project, run `make run`, which makes a key of its own."
    )

# Where `make run` keeps its things; only `config.settings.local` has such a place.
LOCAL_DIR: Path | None = None

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DEFAULT_EXCEPTION_REPORTER_FILTER = "src.core.secrets.ExceptionReporterFilter"

AI_LOCAL = env.bool("AI_LOCAL", default=False)

INSTALLED_APPS = [
    # Before the packages, so that our templates and commands win over theirs.
    "src.core",
    "src.ai",
    *(["src.ai_local"] if AI_LOCAL else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
]

# Static files are served around Django, in asgi.py and wsgi.py: no middleware on the way of an API call.
MIDDLEWARE = [
    "src.core.request_id.request_id_middleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- HTTPS: on unless switched off ------------------------------------------------------------------------------------

SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
# Who checks a process speaks to it directly, by plain HTTP; /v1 refuses plain HTTP itself, as a redirect loses a body.
SECURE_REDIRECT_EXEMPT = [r"^healthz/?$", r"^readyz/?$", r"^v1(?:/|$)"]
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31_536_000)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=True)
SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=True)
SESSION_COOKIE_SECURE = env.bool("SESSION_COOKIE_SECURE", default=True)
CSRF_COOKIE_SECURE = env.bool("CSRF_COOKIE_SECURE", default=True)
# Only behind a proxy that always sets or removes this header: anyone else could claim to have come by HTTPS.
if env.bool("TRUST_X_FORWARDED_PROTO", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Database and cache -----------------------------------------------------------------------------------------------


def sqlite(path: Path | str) -> dict[str, Any]:
    """A SQLite database that several threads and processes can write to without `database is locked`."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            # A transaction that reads and then writes would fail at once instead of waiting for the other writer.
            "transaction_mode": "IMMEDIATE",
            "timeout": env.float("SQLITE_TIMEOUT", default=20.0),
        },
    }


def database(url_variable: str = "DATABASE_URL") -> dict[str, Any]:
    """The database the URL names; PostgreSQL gets psycopg's connection pool, SQLite its concurrency settings."""
    config: dict[str, Any] = env.db_url(url_variable)
    if config["ENGINE"] == "django.db.backends.sqlite3":
        return sqlite(config["NAME"])
    if config["ENGINE"] == "django.db.backends.postgresql":
        config["ENGINE"] = "src.core.postgres"
        config["CONN_MAX_AGE"] = 0
        timeout = env.float("DATABASE_POOL_TIMEOUT", default=10.0)
        config.setdefault("OPTIONS", {})["pool"] = {
            "min_size": env.int("DATABASE_POOL_MIN_SIZE", default=2),
            "max_size": env.int("DATABASE_POOL_MAX_SIZE", default=20),
            "timeout": timeout,
            # The pool's pauses between its attempts double. It starts anew before they are longer than anybody waits.
            "reconnect_timeout": timeout,
        }
    return config


SQLITE_PATH = BASE_DIR / env.str("SQLITE_PATH", default="db.sqlite3")
DATABASE_URL = env.str("DATABASE_URL", default="")
DATABASES = {"default": database() if DATABASE_URL else sqlite(SQLITE_PATH)}

REDIS_URL = env.str("REDIS_URL", default="")
# Seconds: what the request that finds Redis away waits for it. The ones after it do not wait.
REDIS_CONNECT_TIMEOUT = env.float("REDIS_CONNECT_TIMEOUT", default=0.25)
REDIS_TIMEOUT = env.float("REDIS_TIMEOUT", default=0.5)
CACHE_KEY_PREFIX = env.str("CACHE_KEY_PREFIX", default="")
CACHES: dict[str, dict[str, Any]]
if REDIS_URL:
    CACHES = {
        "default": {
            "BACKEND": "src.core.cache.backend.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": CACHE_KEY_PREFIX,
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": REDIS_CONNECT_TIMEOUT, "SOCKET_TIMEOUT": REDIS_TIMEOUT},
        }
    }
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": "dynamic-ai",
            # The default of 300 would evict live entries on a site with a few hundred admins.
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        }
    }

# --- People -----------------------------------------------------------------------------------------------------------

LOGIN_URL = "admin:login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

KNOX_TOKEN_MODEL = "ai.APIToken"  # noqa: S105 (a model's name)
# Its migrations would make a second token table, which nothing fills and `flush` trips over.
MIGRATION_MODULES = {"knox": None}
REST_KNOX = {
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_TTL": timedelta(days=env.int("TOKEN_TTL_DAYS", default=30)),
    "TOKEN_LIMIT_PER_USER": None,
    "AUTO_REFRESH": False,
}

# --- Languages, files -------------------------------------------------------------------------------------------------

LANGUAGE_CODE = env.str("LANGUAGE_CODE", default="en")
LANGUAGES = [("en", _("English")), ("fa", _("Persian"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / env.str("STATIC_ROOT", default="staticfiles")
# True: serve what `collectstatic` gathered, hashed and compressed. False: serve straight from the installed apps.
STATIC_COLLECTED = env.bool("STATIC_COLLECTED", default=True)
MEDIA_URL = "/media/"
MEDIA_ROOT = BASE_DIR / env.str("MEDIA_ROOT", default="media")
# Whether Django itself hands out MEDIA_ROOT; a production site leaves that to its web server or object store.
SERVE_MEDIA = env.bool("SERVE_MEDIA", default=False)
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"
        if STATIC_COLLECTED
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

# --- REST API ---------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "src.ai.authentication.BearerTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"],
    "DEFAULT_PARSER_CLASSES": ["src.ai.views.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.SearchFilter",
        "rest_framework.filters.OrderingFilter",
    ],
    "DEFAULT_PAGINATION_CLASS": "src.ai.views.pagination.PageNumberPagination",
    "DEFAULT_SCHEMA_CLASS": "src.ai.views.schema.AutoSchema",
    "DEFAULT_THROTTLE_RATES": {"login": env.str("LOGIN_THROTTLE", default="10/min")},
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    # How many proxies to believe when telling callers apart; 0 trusts no X-Forwarded-For, which a caller can forge.
    "NUM_PROXIES": env.int("NUM_PROXIES", default=0),
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

DRF_STANDARDIZED_ERRORS = {"EXCEPTION_HANDLER_CLASS": "src.ai.views.errors.ExceptionHandler"}

# Bytes of a body at /api/: the longest message of its longest letters, and a conversation before it.
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 1024 * 1024

SPECTACULAR_SETTINGS = {
    "TITLE": "Dynamic AI",
    "DESCRIPTION": "Write, illustrate and voice content with whichever AI provider and model is active.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/",
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    # From drf-spectacular-sidecar: the pages load nothing from elsewhere.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": True},
    "PREPROCESSING_HOOKS": ["src.ai.views.schema.without_trailing_slash"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "src.ai.views.gateway_schema.add_gateway",
    ],
}

# --- AI ---------------------------------------------------------------------------------------------------------------

# The language content is written in when a request names none.
AI_CONTENT_LANGUAGE = env.str("AI_CONTENT_LANGUAGE", default="en")
# Seconds: to connect, to the first byte of an answer, for a whole call, and for one that makes an image.
AI_TIMEOUT_CONNECT = env.float("AI_TIMEOUT_CONNECT", default=5.0)
AI_TIMEOUT_FIRST_BYTE = env.float("AI_TIMEOUT_FIRST_BYTE", default=60.0)
AI_TIMEOUT_TOTAL = env.float("AI_TIMEOUT_TOTAL", default=120.0)
AI_TIMEOUT_IMAGE = env.float("AI_TIMEOUT_IMAGE", default=180.0)
# Hosts a provider's base URL may name with plain http; all others need https, or a key could be read on the way.
AI_HTTP_HOSTS = env.list("AI_HTTP_HOSTS", default=[])
# The accounting month: its time zone, and "gregorian" or "jalali".
AI_MONTH_TIME_ZONE = env.str("AI_MONTH_TIME_ZONE", default=TIME_ZONE)
AI_MONTH_CALENDAR = env.str("AI_MONTH_CALENDAR", default="gregorian")
# Seconds that a call waits for the books before it is refused, and that an answer waits to be on them.
AI_LEDGER_TIMEOUT = env.float("AI_LEDGER_TIMEOUT", default=10.0)
# Whether a call that nobody came back from (its process died) is charged what was held for it.
AI_CHARGE_UNKNOWN_CALLS = env.bool("AI_CHARGE_UNKNOWN_CALLS", default=True)
# Whether an admin with a budget may use a model whose price is not known.
AI_BUDGET_ALLOWS_UNKNOWN_PRICE = env.bool("AI_BUDGET_ALLOWS_UNKNOWN_PRICE", default=False)
# Whether calls by a token with rates go on, uncounted, while Redis, which counts them, is away. Else they are refused.
AI_RATES_FAIL_OPEN = env.bool("AI_RATES_FAIL_OPEN", default=False)
# What a reply is expected to be at most where neither the request nor the model says; tokens.
AI_DEFAULT_MAX_TOKENS = env.int("AI_DEFAULT_MAX_TOKENS", default=4096)
# Seconds between two sweeps of the books by a serving process; 0 leaves that to `manage.py ai_sweep`.
AI_SWEEP_INTERVAL = env.float("AI_SWEEP_INTERVAL", default=60.0)
# Whether prompts and replies are kept (encrypted) beside the usage records.
AI_STORE_TEXTS = env.bool("AI_STORE_TEXTS", default=False)
# The gateway at /v1: bytes that a body may have, and seconds that it may take to arrive.
AI_GATEWAY_BODY_LIMIT = env.int("AI_GATEWAY_BODY_LIMIT", default=32 * 1024 * 1024)
AI_GATEWAY_BODY_TIMEOUT = env.float("AI_GATEWAY_BODY_TIMEOUT", default=30.0)
# A GGUF file for the local provider, instead of the small one it ships with.
LOCAL_GGUF = env.str("LOCAL_GGUF", default="")

# --- Logging ----------------------------------------------------------------------------------------------------------

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
LOG_FORMAT = env.str("LOG_FORMAT", default="text")  # or json
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"text": {"()": "config.logs.FactsFormatter"}, "json": {"()": "config.logs.JSONFormatter"}},
    "filters": {"request_id": {"()": "src.core.request_id.RequestIdFilter"}},
    "handlers": {"console": {"class": "config.logs.Handler", "formatter": LOG_FORMAT, "filters": ["request_id"]}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        # Django's own handlers would print a line twice, and mail admins nobody configured.
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # What the server says looks like all the rest; its access log stays as its own options have it.
        "uvicorn.error": {"handlers": ["console"], "propagate": False},
        # At INFO these log every URL, whole.
        **{name: {"level": "WARNING"} for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "groq")},
    },
}

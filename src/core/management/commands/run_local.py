"""`manage.py run_local`: what `make run` does once the packages are installed."""

import contextlib
import json
import secrets
import shlex
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _
from knox.models import get_token_model

from src.core.files import write_private

HOST = "127.0.0.1"
TOKEN_LIFE = timedelta(days=30)
SEED_COMMANDS = ("seed_ai_catalogue", "seed_ai_local")
# Who is made on the first run, and whether they are a superuser; both are staff.
USERS = {"admin": True, "editor": False}

Credentials = dict[str, Any]


class Command(BaseCommand):
    """Make the local site ready, say how to get in, and serve it until Ctrl-C."""

    help = "Prepare the database, make users on the first run, and serve the site on this machine only."

    def add_arguments(self, parser: CommandParser) -> None:
        """The one thing to choose."""
        parser.add_argument("--port", type=int, default=8000, help="the port to serve on (8000)")

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        """Claim the port before anything is changed; speak last, when the site answers."""
        if settings.LOCAL_DIR is None:
            raise CommandError(
                _("run_local makes users and prints their passwords: use it with config.settings.local.")
            )
        listener = listen(port)
        # SIGTERM, too, is a wish to stop and no accident.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt):
            self.migrate()
            for name in SEED_COMMANDS:
                if name in get_commands():
                    call_command(name, stdout=self.stdout, stderr=self.stderr)
            url = f"http://{HOST}:{listener.getsockname()[1]}"
            path = settings.LOCAL_DIR / "credentials.json"
            credentials, made = ensure_users(path, url)
            connections.close_all()
            text = first_steps(credentials, shown(path)) if made else next_steps(url, shown(path))
            serve(listener, announce=lambda: self.say(text))
        self.say(_("Stopped."))

    def migrate(self) -> None:
        """Apply what is missing, without a word when nothing is."""
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if not missing:
            return
        self.say(_("Preparing the database (%(count)d migrations) …") % {"count": len(missing)})
        call_command("migrate", interactive=False, verbosity=0)

    def say(self, text: str) -> None:
        """Print now, also into a pipe."""
        self.stdout.write(text)
        self.stdout.flush()


def listen(port: int) -> socket.socket:
    """A listening socket, so that nobody else can take the port while the site gets ready."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise CommandError(
            _("Port %(port)d cannot be used (%(reason)s). Choose another one: make run PORT=%(other)d")
            % {
                "port": port,
                "reason": getattr(error, "strerror", None) or error,
                "other": 8001 if port != 8001 else 8002,
            }
        ) from error
    return listener


def ensure_users(path: Path, url: str) -> tuple[Credentials, bool]:
    """What the credentials file holds now, and whether this run made a user.

    A user that exists keeps password and tokens. The file is written before the database commits: a password
    that could not be kept is never set.
    """
    try:
        known: Credentials = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = {}
    credentials = {"url": url, **{name: known[name] for name in USERS if name in known}}
    made = False
    with transaction.atomic():
        for username, is_superuser in USERS.items():
            if get_user_model().objects.filter(username=username).exists():
                continue
            credentials[username] = make_user(username, is_superuser)
            made = True
        if made or (known and known != credentials):
            write_private(path, json.dumps(credentials, indent=2) + "\n")
    return credentials, made


def make_user(username: str, is_superuser: bool) -> dict[str, str]:
    """A new user with a random password and a token."""
    password = secrets.token_hex(10)
    user = get_user_model().objects.create_user(
        username=username, password=password, is_staff=True, is_superuser=is_superuser
    )
    _instance, token = get_token_model().objects.create(user=user, name="make run", expiry=TOKEN_LIFE)
    return {"username": username, "password": password, "token": token}


def first_steps(credentials: Credentials, path: str) -> str:
    """Everything a newcomer needs, with a command that works as pasted."""
    url = credentials["url"]
    people = [credentials[name] for name in USERS if name in credentials]
    lines = [
        "",
        _("Dynamic AI is running at %(url)s") % {"url": url},
        *places(url),
        "",
        *(
            line
            for person in people
            for line in (
                _("%(username)s  password %(password)s") % person,
                _("%(indent)s  token    %(token)s") % {**person, "indent": " " * len(person["username"])},
            )
        ),
        _("All of this is kept in %(path)s, readable by you only.") % {"path": path},
        "",
        _("Try it:"),
        curl(f"{url}/api/admin/ai/chat/send", {"message": "Say hello in one sentence."}, token=people[-1]["token"]),
        _("Any OpenAI client, by base URL and token:"),
        f"  OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={people[-1]['token']}",
        "",
        _("Ctrl-C stops it."),
    ]
    return "\n".join(lines)


def next_steps(url: str, path: str) -> str:
    """On a later run: where the secrets are and how to get new ones."""
    lines = [
        "",
        _("Dynamic AI is running at %(url)s") % {"url": url},
        *places(url),
        "",
        _("Users, passwords and tokens of the first run: %(path)s") % {"path": path},
        _("A new token, with the password from there:"),
        curl(f"{url}/api/admin/auth/login", {"username": "editor", "password": "PASSWORD"}),
        _("A new password, if that file is gone:"),
        "  .venv/bin/python manage.py changepassword editor --settings=config.settings.local",
        "",
        _("Ctrl-C stops it."),
    ]
    return "\n".join(lines)


def shown(path: Path) -> str:
    """The path as one would type it in the project's directory."""
    return str(path.relative_to(settings.BASE_DIR) if path.is_relative_to(settings.BASE_DIR) else path)


def places(url: str) -> list[str]:
    """The pages worth opening."""
    return [
        _("  admin  %(url)s/admin/") % {"url": url},
        _("  docs   %(url)s/api/docs/") % {"url": url},
    ]


def curl(url: str, body: dict[str, str], token: str = "") -> str:
    """One shell line that posts this body."""
    parts = ["curl", "-X", "POST", url, "-H", "Content-Type: application/json"]
    if token:
        parts += ["-H", f"Authorization: Bearer {token}"]
    return "  " + shlex.join([*parts, "-d", json.dumps(body)])


class Server(uvicorn.Server):
    """A uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self.announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce it."""
        await super().startup(sockets)
        if self.started:
            self.announce()


def serve(listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve the site on this socket until a signal comes."""
    config = uvicorn.Config(
        "config.asgi:application",
        http="config.asgi:Protocol",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    Server(config, announce).run(sockets=[listener])

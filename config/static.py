"""Static files, served around Django: an API call meets no middleware for them, and an ASGI server no thread."""

import logging
from pathlib import Path
from wsgiref.headers import Headers

from django.conf import settings
from django.contrib.staticfiles import finders
from servestatic import ServeStatic, ServeStaticASGI

logger = logging.getLogger(__name__)


def add_static_files(application: ServeStatic | ServeStaticASGI) -> None:
    """Give the wrapper the files that `collectstatic` gathered or, without STATIC_COLLECTED, those of the apps."""
    if settings.STATIC_COLLECTED:
        if Path(settings.STATIC_ROOT).is_dir():
            application.add_files(settings.STATIC_ROOT, settings.STATIC_URL)
        else:
            logger.warning("No static files: run `manage.py collectstatic`, or set STATIC_COLLECTED=false")
        return
    # Backwards, since the last one added wins and the first one found should.
    for finder in reversed(list(finders.get_finders())):
        for path, storage in reversed(list(finder.list([]))):
            application.add_file_to_dictionary(f"{settings.STATIC_URL}{path}", storage.path(path))


def add_headers(headers: Headers, path: str, url: str) -> None:
    """What Django's SecurityMiddleware would have added."""
    headers["X-Content-Type-Options"] = "nosniff"

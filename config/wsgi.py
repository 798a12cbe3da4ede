"""The site for WSGI servers: `gunicorn config.wsgi:application`."""

import os

from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_wsgi_application()

from config.static import add_headers, add_static_files  # noqa: E402 (needs Django to be set up)
from src.ai.services.ledger.sweeper import sweeper  # noqa: E402

application = ServeStatic(django_application, add_headers_function=add_headers, allow_all_origins=False)
add_static_files(application)
sweeper.start()

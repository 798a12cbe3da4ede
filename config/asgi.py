"""The site for ASGI servers: `uvicorn config.asgi:application`."""

import os

import django
from servestatic import ServeStaticASGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)

from config.static import add_headers, add_static_files  # noqa: E402 (needs Django to be set up)
from src.ai.asgi import Gateway  # noqa: E402
from src.ai.services.ledger.sweeper import sweeper  # noqa: E402
from src.ai.services.ledger.writer import EXIT_WAIT, writer  # noqa: E402
from src.ai.views.on_loop import chat_on_loop  # noqa: E402
from src.core.asgi import Handler  # noqa: E402
from src.core.graceful import Graceful  # noqa: E402

graceful_application = Graceful(Handler(choose=chat_on_loop), at_end=lambda: writer.drain(EXIT_WAIT))
static_application = ServeStaticASGI(graceful_application, add_headers_function=add_headers, allow_all_origins=False)
add_static_files(static_application)
application = Gateway(static_application)
sweeper.start()

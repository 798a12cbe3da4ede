"""The site with one path more, `/-/inside`, which tells what only the process itself knows. `soak.py` serves it."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

from site_under_test import INSIDE

from config.asgi import application

behind = application.application


async def inside(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What is inside: tasks of all loops that have not ended, and objects. Or what the gateway leaves to others."""
    if scope["type"] != "http" or scope["path"] != INSIDE:
        await behind(scope, receive, send)
        return
    objects = gc.get_objects()
    tasks = sum(isinstance(found, asyncio.Task) and not found.done() for found in objects)
    body = json.dumps({"tasks": tasks, "objects": len(objects)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


application.application = inside

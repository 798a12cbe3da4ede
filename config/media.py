"""Generated media, handed out by Django itself where SERVE_MEDIA says so."""

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.static import serve


async def serve_media(request: HttpRequest, path: str) -> HttpResponseBase:
    """A file of MEDIA_ROOT, whole: an ASGI server can't stream what Django's own view opens."""
    return await sync_to_async(_serve)(request, path)


def _serve(request: HttpRequest, path: str) -> HttpResponseBase:
    response = serve(request, path, document_root=settings.MEDIA_ROOT)
    if not response.streaming:
        return response
    try:
        return HttpResponse(response.getvalue(), headers=dict(response.items()))
    finally:
        response.close()

"""The site: Django admin, the API, and a front page that leads to its documentation."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from config.media import serve_media
from src.ai.views.gateway_views import gateway
from src.core.health import healthz, readyz

urlpatterns = [
    re_path(r"^healthz/?$", healthz),
    re_path(r"^readyz/?$", readyz),
    path("", RedirectView.as_view(url="/api/docs/")),
    path("admin/", admin.site.urls),
    path("api/", include("src.ai.urls")),
    re_path(r"^v1(?:/(?P<path>.*))?$", gateway),
    path("api-auth/", include("rest_framework.urls")),  # log in and out on the browsable pages
]

if settings.SERVE_MEDIA:
    prefix = settings.MEDIA_URL.strip("/")
    urlpatterns.append(re_path(rf"^{prefix}/(?P<path>.+)$", serve_media))

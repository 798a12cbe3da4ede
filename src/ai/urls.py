"""Everything under `/api/`. Each path is served with and without its trailing slash."""

from django.urls import URLPattern, URLResolver, include, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import SimpleRouter

from src.ai.views import schema as _schema  # noqa: F401 - registers the authentication scheme
from src.ai.views.ai_provider_views import AdminProviderSettingsViewSet, AIModelViewSet, AIProviderViewSet
from src.ai.views.auth_views import LoginView, LogoutAllView, LogoutView, TokenViewSet
from src.ai.views.generation_views_v2 import UnifiedAIGenerationViewSet
from src.ai.views.not_found import NotFoundView


class OptionalSlashRouter(SimpleRouter):
    """Routes that end with or without a slash."""

    def __init__(self) -> None:
        super().__init__()
        self.trailing_slash = "/?"


router = OptionalSlashRouter()
router.register("admin/auth/tokens", TokenViewSet, basename="api-token")
router.register("admin/ai-providers", AIProviderViewSet, basename="ai-provider")
router.register("admin/ai-models", AIModelViewSet, basename="ai-model")
router.register("admin/ai-settings", AdminProviderSettingsViewSet, basename="ai-settings")
router.register("admin/ai", UnifiedAIGenerationViewSet, basename="ai")

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^admin/auth/login/?$", LoginView.as_view(), name="login"),
    re_path(r"^admin/auth/logout/?$", LogoutView.as_view(), name="logout"),
    re_path(r"^admin/auth/logoutall/?$", LogoutAllView.as_view(), name="logoutall"),
    re_path("^", include(router.urls)),
    re_path(r"^schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^docs/?$", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    re_path("^", NotFoundView.as_view()),
]

"""The app's registration with Django."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class CoreConfig(AppConfig):
    """What is not about AI."""

    name = "src.core"
    label = "core"
    verbose_name = _("Core")

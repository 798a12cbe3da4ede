"""The Django admin of the AI section: `/admin/ai/`."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from src.ai.admin.media import GeneratedMediaAdmin
from src.ai.admin.models import AIModelAdmin
from src.ai.admin.own_usage import OwnUsageAdmin
from src.ai.admin.providers import AIProviderAdmin
from src.ai.admin.settings import AdminProviderSettingsAdmin
from src.ai.admin.tokens import APITokenAdmin
from src.ai.admin.usage import UsageRecordAdmin
from src.ai.admin.usage_months import UsagePeriodAdmin

admin.site.site_header = _("Dynamic AI")
admin.site.site_title = _("Dynamic AI")
admin.site.index_title = _("Administration")

__all__ = [
    "AIModelAdmin",
    "AIProviderAdmin",
    "APITokenAdmin",
    "AdminProviderSettingsAdmin",
    "GeneratedMediaAdmin",
    "OwnUsageAdmin",
    "UsagePeriodAdmin",
    "UsageRecordAdmin",
]

"""What rows counted themselves until now is carried into the books."""

from datetime import UTC, datetime, time, timedelta

from django.contrib.auth import get_user_model
from django.db import migrations

from src.core.months import month_of


def carry(apps, schema_editor):
    """Make the periods that the counters of providers, models and settings become part of.

    What the running month has used counts in it; all that was before, and whatever no month is known of, in the month
    before.
    """
    this = month_of().first
    last = month_of_day_before(this)
    periods = Periods(apps, schema_editor.connection.alias)
    for row in apps.get_model("ai", "AIProvider").objects.filter(total_requests__gt=0):
        of = {"scope": "provider", "provider_id": row.pk, "provider_slug": row.slug}
        periods.add(f"provider:{row.pk}:{last}", last, row.total_requests, row.last_used_at, of)
    for row in apps.get_model("ai", "AIModel").objects.filter(total_requests__gt=0).select_related("provider"):
        of = {"scope": "model", "provider_id": row.provider_id, "provider_slug": row.provider.slug}
        of |= {"model_id": row.pk, "model_name": row.model_id}
        periods.add(f"model:{row.pk}:{last}", last, row.total_requests, row.last_used_at, of)
    settings = apps.get_model("ai", "AdminProviderSettings").objects.filter(total_requests__gt=0)
    for row in settings.select_related("provider", "admin"):
        of = {"scope": "admin", "provider_id": row.provider_id, "provider_slug": row.provider.slug}
        of |= {"admin_id": row.admin_id, "admin_name": getattr(row.admin, get_user_model().USERNAME_FIELD)[:150]}
        running = row.usage_month is not None and row.usage_month.replace(day=1) == this.replace(day=1)
        used = min(row.monthly_usage, row.total_requests) if running else 0
        key = f"admin:{row.provider_id}:{row.admin_id}"
        periods.add(f"{key}:{this}", this, used, row.last_used_at, of)
        periods.add(f"{key}:{last}", last, row.total_requests - used, row.last_used_at, of)


class Periods:
    """Writes periods and what they carry."""

    def __init__(self, apps, alias):
        self.periods = apps.get_model("ai", "UsagePeriod").objects.using(alias)
        self.carried = apps.get_model("ai", "UsageCarried").objects.using(alias)

    def add(self, key, month, requests, last_used_at, of):
        """One period, unless nothing was used in it."""
        if requests:
            period = self.periods.create(key=key, month=month, requests=requests, last_used_at=last_used_at, **of)
            self.carried.create(period=period, requests=requests)


def month_of_day_before(first):
    """The first day of the month before."""
    return month_of(datetime.combine(first - timedelta(days=1), time(12), UTC)).first


class Migration(migrations.Migration):

    dependencies = [
        ("ai", "0002_ledger"),
    ]

    operations = [
        migrations.RunPython(carry, migrations.RunPython.noop),
        migrations.RemoveField(
            model_name='adminprovidersettings',
            name='last_used_at',
        ),
        migrations.RemoveField(
            model_name='adminprovidersettings',
            name='monthly_usage',
        ),
        migrations.RemoveField(
            model_name='adminprovidersettings',
            name='total_requests',
        ),
        migrations.RemoveField(
            model_name='adminprovidersettings',
            name='usage_month',
        ),
        migrations.RemoveField(
            model_name='aimodel',
            name='last_used_at',
        ),
        migrations.RemoveField(
            model_name='aimodel',
            name='total_requests',
        ),
        migrations.RemoveField(
            model_name='aiprovider',
            name='last_used_at',
        ),
        migrations.RemoveField(
            model_name='aiprovider',
            name='total_requests',
        ),
    ]

"""What the default catalogue has already brought."""

from django.db import models


class SeededEntry(models.Model):
    """One provider or model that `seed_ai_catalogue` has once created; what a person deletes stays deleted.

    `model_id` is empty for the provider itself.
    """

    slug = models.SlugField()
    model_id = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["slug", "model_id"], name="ai_seeded_once"),)

    def __str__(self) -> str:
        return f"{self.slug}/{self.model_id}" if self.model_id else self.slug

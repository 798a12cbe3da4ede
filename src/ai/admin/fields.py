"""Form fields and forms of the section."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, TypeVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from src.ai.admin.generic import ModelForm
from src.ai.exceptions import InvalidConfig
from src.ai.models import EncryptedAPIKeyMixin, ModelCapability
from src.ai.providers.base import OPERATIONS
from src.ai.services.configuration import check_config

K = TypeVar("K", bound=EncryptedAPIKeyMixin)

LONGEST_CAPABILITY: int = ModelCapability._meta.get_field("capability").max_length or 0


class KeyForm(ModelForm[K]):
    """A row with an API key, which comes in and never goes out."""

    new_api_key = forms.CharField(
        label=_("New key"),
        required=False,
        max_length=4096,
        help_text=_("Is stored encrypted and never shown again. Left empty, the stored key stays."),
        widget=forms.PasswordInput(
            render_value=False,
            # "off" is what browsers ignore: they would fill in the password that the admin logs in with.
            attrs={"autocomplete": "new-password", "class": "vTextField", "dir": "ltr", "spellcheck": "false"},
        ),
    )
    remove_api_key = forms.BooleanField(label=_("Remove the stored key"), required=False)

    def clean(self) -> dict[str, Any] | None:
        data = super().clean()
        if self.cleaned_data.get("new_api_key") and self.cleaned_data.get("remove_api_key"):
            self.add_error("new_api_key", _("Either enter a new key or remove the stored one."))
        return data

    def save(self, commit: bool = True) -> K:
        # Only here, so that a refused form leaves the row, and what is shown of its key, as stored.
        if self.cleaned_data["new_api_key"] or self.cleaned_data["remove_api_key"]:
            setattr(self.instance, self.instance.api_key_field, self.cleaned_data["new_api_key"])
        return super().save(commit)


class CapabilitiesField(forms.CharField):
    """A list of names, typed with commas in between."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        names = (name.strip() for name in re.split(r"[,،;؛\n]", text or ""))
        return list(dict.fromkeys(_canonical(name) for name in names if name))

    def validate(self, value: Any) -> None:
        super().validate(value)
        for name in value:
            if len(name) > LONGEST_CAPABILITY:
                message = _("A capability's name has at most %(count)d characters.")
                raise ValidationError(message, code="max_length", params={"count": LONGEST_CAPABILITY})

    def run_validators(self, value: Any) -> None:
        for name in value:
            super().run_validators(name)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class ConfigField(forms.JSONField):
    """A JSON object that every database can store."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = {"rows": 6, "dir": "ltr", "class": "vLargeTextField ai-json", "spellcheck": "false"}
        super().__init__(**{**kwargs, "widget": forms.Textarea(attrs=attrs), "required": False})

    def prepare_value(self, value: Any) -> Any:
        return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else value

    def clean(self, value: Any) -> Any:
        return super().clean(value) or {}

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value not in self.empty_values and not isinstance(value, dict):
            raise ValidationError(_('Give a JSON object, such as {"temperature": 0.7}.'), code="invalid")
        try:
            stored = json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValidationError(_("NaN and Infinity are no JSON numbers."), code="invalid") from None
        if "\\u0000" in stored:
            raise ValidationError(_("Null characters are not allowed."), code="null_characters_not_allowed")


class PriceField(forms.DecimalField):
    """A price without the zeros that its column adds."""

    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value


class TextBlock(forms.CharField):
    """Text of several lines, with the line breaks it came with: a browser sends others, which is no change."""

    def to_python(self, value: Any) -> Any:
        return (super().to_python(value) or "").replace("\r\n", "\n")


def check_config_of(form: forms.BaseForm, slug: str) -> None:
    """Put what the provider's class says against the form's `config` beside that field."""
    try:
        check_config(slug, form.cleaned_data.get("config") or {})
    except InvalidConfig as error:
        form.add_error("config", ValidationError(error.message, code=error.code))


def _canonical(name: str) -> str:
    return name.lower() if name.lower() in OPERATIONS else name

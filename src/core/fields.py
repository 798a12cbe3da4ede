"""Model fields that are not about AI."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import FieldError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import signals

from src.core import secrets


class Ciphertext(str):
    """A stored value: already encrypted, whatever it looks like."""


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]  # not subscriptable at run time
    """Text that is encrypted when its row is saved and bound to that row.

    Assign plain text and save. Reading gives a `Ciphertext`; `reveal` opens it. The row needs a `public_id`: a
    ciphertext copied to another row or column does not open there.
    """

    def reveal(self, instance: models.Model) -> str:
        """The plain text of this field on `instance`; empty where none is set. Raises `secrets.Undecryptable`."""
        value = getattr(instance, self.attname)
        if not value or not isinstance(value, Ciphertext):
            return value or ""
        return secrets.decrypt(value, context=self.context(instance))

    def context(self, instance: models.Model) -> str:
        """What a value of this field on `instance` is bound to."""
        return f"{instance._meta.label_lower}.{self.name}:{instance.public_id}"  # type: ignore[attr-defined]

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        super().contribute_to_class(cls, name, private_only)
        # A fixture is saved raw, past the fields' own `pre_save`.
        signals.pre_save.connect(self._encrypt_raw, sender=cls, weak=False)

    def _encrypt_raw(self, instance: models.Model, raw: bool, **_signal: Any) -> None:
        if raw:
            self.pre_save(instance, add=False)

    def from_db_value(self, value: str | None, expression: object, connection: BaseDatabaseWrapper) -> str | None:
        return Ciphertext(value) if value else value

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        if value and not isinstance(value, Ciphertext):
            value = self._encrypt(value, self.context(model_instance))
            setattr(model_instance, self.attname, value)
        return value

    def _encrypt(self, value: str, context: str) -> Ciphertext:
        try:
            secrets.decrypt(value, context=context)  # a fixture brings this row's own ciphertext
        except secrets.Undecryptable:
            return Ciphertext(secrets.encrypt(value, context=context))
        return Ciphertext(value)

    def get_prep_value(self, value: Any) -> Any:
        if value and not isinstance(value, Ciphertext):
            raise FieldError(
                f"'{self.name}' can't be written without its row, which it is bound to: assign it and save()."
            )
        return super().get_prep_value(value)


class FixedPointField(models.BigIntegerField):  # type: ignore[type-arg]  # not subscriptable at run time
    """A `Decimal` with `decimal_places` places, kept as a whole number of its smallest unit.

    Sums are exact on every database: SQLite keeps a `DecimalField` as a floating-point number.
    """

    def __init__(self, *args: Any, decimal_places: int, **kwargs: Any) -> None:
        self.decimal_places = decimal_places
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "decimal_places": self.decimal_places}

    def from_db_value(self, value: Any, expression: object, connection: BaseDatabaseWrapper) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-self.decimal_places)

    def to_python(self, value: Any) -> Any:
        if value is None or isinstance(value, Decimal):
            return value
        return models.DecimalField(max_digits=40, decimal_places=self.decimal_places).to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else int(Decimal(str(value)).scaleb(self.decimal_places).to_integral_value())

    def formfield(self, **kwargs: Any) -> Any:
        options = {"form_class": forms.DecimalField, "decimal_places": self.decimal_places, **kwargs}
        return models.Field.formfield(self, **options)

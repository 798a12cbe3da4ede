"""Django's generic classes with the type parameters that only type checkers know."""

from typing import TYPE_CHECKING

from django import forms
from django.contrib import admin

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin
    ModelForm = forms.ModelForm
else:

    class ModelAdmin(admin.ModelAdmin):
        """`django.contrib.admin.ModelAdmin`, subscriptable."""

        def __class_getitem__(cls, model: object) -> type:
            return cls

    class ModelForm(forms.ModelForm):
        """`django.forms.ModelForm`, subscriptable."""

        def __class_getitem__(cls, model: object) -> type:
            return cls


__all__ = ["ModelAdmin", "ModelForm"]

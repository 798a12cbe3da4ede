"""Generated media: looked at, and deleted with its file."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from PIL import Image

from src.ai.models import AIModel, AIProvider, GeneratedMedia

URL = "/admin/ai/generatedmedia/"


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_media(
    make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> Callable[..., GeneratedMedia]:
    model = make_model(make_provider("acme"), "image")

    def make(owner: User, kind: str = "image", **facts: Any) -> GeneratedMedia:
        file = ContentFile(png(), name="media.png")
        facts = {"prompt": "a <b>cat</b>", "model_name": "acme/painter", "size": file.size, **facts}
        return GeneratedMedia.objects.create(owner=owner, kind=kind, file=file, model=model, **facts)

    return make


def test_an_image_is_shown_to_its_owner_by_its_url(
    as_editor: Any, editor: User, make_media: Callable[..., GeneratedMedia]
) -> None:
    media = make_media(editor, alt_text='a "cat"')
    for url in (URL, f"{URL}{media.pk}/change/"):
        page = as_editor.get(url).html
        assert f'src="{media.file.url}"' in page
        assert 'alt="a &quot;cat&quot;"' in page
        assert "<b>cat</b>" not in page
    assert b"".join(as_editor.client.get(media.file.url)) == png()


def test_audio_gets_a_player(as_editor: Any, editor: User, make_media: Callable[..., GeneratedMedia]) -> None:
    media = make_media(editor, kind="audio")
    assert f'src="{media.file.url}"></audio>' in as_editor.get(URL).html


def test_media_is_not_changed_by_hand(
    as_superuser: Any, superuser: User, make_media: Callable[..., GeneratedMedia]
) -> None:
    media = make_media(superuser)
    assert as_superuser.client.get(f"{URL}add/").status_code == 403
    assert as_superuser.client.post(f"{URL}{media.pk}/change/", {"title": "x"}).status_code == 403


def test_others_see_it_only_as_superusers(
    as_superuser: Any, as_other_editor: Any, editor: User, make_media: Callable[..., GeneratedMedia]
) -> None:
    media = make_media(editor)
    assert as_superuser.get(URL).rows == [media]
    assert as_other_editor.get(URL).rows == []


def test_deleting_removes_the_file(
    as_editor: Any,
    editor: User,
    make_media: Callable[..., GeneratedMedia],
    django_capture_on_commit_callbacks: Any,
) -> None:
    one, two, kept = (make_media(editor) for _ in range(3))
    with django_capture_on_commit_callbacks(execute=True):
        as_editor.post(f"{URL}{one.pk}/delete/", post="yes")
        as_editor.act(URL, "delete_selected", two, post="yes")
    storage = kept.file.storage
    assert [storage.exists(media.file.name) for media in (one, two, kept)] == [False, False, True]
    assert GeneratedMedia.objects.get() == kept


def test_a_row_whose_file_is_gone_is_still_shown(
    as_editor: Any, editor: User, make_media: Callable[..., GeneratedMedia]
) -> None:
    media = make_media(editor)
    media.file.storage.delete(media.file.name)
    GeneratedMedia.objects.create(owner=editor, kind="image", prompt="nothing", size=0)
    assert len(as_editor.get(URL).rows) == 2
    assert as_editor.get(f"{URL}{media.pk}/change/").status == 200


def test_a_placeholder_is_called_one(as_editor: Any, editor: User, make_media: Callable[..., GeneratedMedia]) -> None:
    media = make_media(editor)
    words = "placeholder: not made by a model"
    assert words not in as_editor.get(f"{URL}{media.pk}/change/").text
    GeneratedMedia.objects.update(placeholder=True)
    assert words in as_editor.get(URL).text

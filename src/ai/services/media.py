"""Generated images and audio: checked to be what they claim, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final

import mutagen
from django.contrib.auth.models import AbstractUser
from django.core.files.base import ContentFile
from django.db import DatabaseError, transaction
from PIL import Image, UnidentifiedImageError

from src.ai.exceptions import MediaNotSaved, ProviderInvalidResponse
from src.ai.models import GeneratedMedia
from src.ai.results import Media

EXTENSIONS: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
}


def checked_image(result: BytesIO, provider: str) -> Media:
    """`result` as `Media` with the mime type that its bytes show, and each of its companions likewise.

    Raises:
        ProviderInvalidResponse: the bytes are no image that can be opened.
    """
    return _checked(result, provider, _image_type)


def checked_audio(result: BytesIO, provider: str) -> Media:
    """`result` as `Media` with the mime type that its bytes show.

    Raises:
        ProviderInvalidResponse: the bytes are no audio that can be opened.
    """
    return _checked(result, provider, _audio_type)


def save_media(
    media: Media,
    *,
    kind: GeneratedMedia.Kind,
    prompt: str,
    owner: AbstractUser,
    title: str = "",
    alt_text: str = "",
) -> GeneratedMedia:
    """Store `media`, which the service returned, through Django's storage, with a row that says how it was made.

    Nothing is left behind where either fails.
    """
    row = GeneratedMedia(
        kind=kind,
        owner_id=owner.pk,
        model_id=media.info.model_pk,
        model_name=f"{media.info.provider}/{media.info.request_model}",
        prompt=prompt,
        title=title,
        alt_text=alt_text,
        mime_type=media.content_type,
        size=media.getbuffer().nbytes,
        placeholder=media.placeholder,
    )
    row.file.save(f"media.{EXTENSIONS[media.content_type]}", ContentFile(media.getvalue()), save=False)
    try:
        with transaction.atomic():
            row.save()
    except BaseException:
        row.file.delete(save=False)
        raise
    return row


def save_all(made: Sequence[Media], **facts: Any) -> list[GeneratedMedia]:
    """`save_media` for everything that one call made: all of it is kept, or nothing.

    Raises:
        MediaNotSaved: the storage or the database failed.
    """
    kept: list[GeneratedMedia] = []
    try:
        for media in made:
            kept.append(save_media(media, **facts))
    except (OSError, DatabaseError) as error:
        delete_media(kept)
        raise MediaNotSaved() from error
    return kept


def delete_media(rows: Iterable[GeneratedMedia]) -> None:
    """Delete the rows and, once that is certain, their files."""
    doomed = list(rows)
    with transaction.atomic():
        GeneratedMedia.objects.filter(pk__in=[row.pk for row in doomed]).delete()
        for row in doomed:
            if row.file.name:
                transaction.on_commit(partial(row.file.storage.delete, row.file.name))


def _checked(result: BytesIO, provider: str, read_type: Callable[[BytesIO], str]) -> Media:
    if not isinstance(result, BytesIO):
        raise ProviderInvalidResponse(provider=provider, reason=f"it is {type(result).__name__} instead of a file")
    media = result if isinstance(result, Media) else Media(result.getvalue(), "")
    for item in media.all:
        try:
            item.content_type = read_type(item)
        except _UNREADABLE as error:
            claim = item.content_type or "media"
            raise ProviderInvalidResponse(provider=provider, reason=f"it is no readable {claim}: {error}") from error
        finally:
            item.seek(0)
    return media


_UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    mutagen.MutagenError,
)


def _image_type(media: BytesIO) -> str:
    with Image.open(media) as image:
        image.verify()
    media.seek(0)
    with Image.open(media) as image:
        image.load()  # `verify` reads no pixels
        return _known(Image.MIME.get(image.format or "", ""))


def _audio_type(media: BytesIO) -> str:
    file = mutagen.File(media)
    if file is None:
        raise ValueError("unknown format")
    if not file.info.length:
        raise ValueError("it is silent from the start: no samples")
    return next((mime for mime in file.mime if mime in EXTENSIONS), None) or _known(file.mime[0])


def _known(mime_type: str) -> str:
    if mime_type not in EXTENSIONS:
        raise ValueError(f"unknown format {mime_type}")
    return mime_type

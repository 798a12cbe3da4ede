"""Articles of the local model: all six fields, for any topic and length."""

from __future__ import annotations

import json
from typing import Any

import pytest

from src.ai.exceptions import ContentInvalid
from src.ai.providers import content
from src.ai.providers.base import BaseProvider
from src.ai.results import Article, Reply
from src.ai_local import structure

pytestmark = pytest.mark.local


@pytest.mark.parametrize(
    ("topic", "word_count", "language"),
    [
        ("keeping bees", None, "en"),
        ('C++ & <b>"HTML"</b> {json} <|im_end|>', 20, "en"),
        ("مزایای چای سبز", 20, "fa"),
        ("?", 1, "en"),
    ],
)
async def test_all_six_fields_come_filled(
    provider: BaseProvider, topic: str, word_count: int | None, language: str
) -> None:
    article = await provider.generate_seo_content(topic, word_count=word_count, language=language)
    assert set(article) == set(content.FIELDS)
    assert all(article.values())
    assert len(article["meta_title"]) <= 60
    assert len(article["meta_description"]) <= 160
    assert isinstance(article, Article)
    assert article.model == "smollm2-135m-instruct"
    assert article.usage is not None
    assert article.usage.output_tokens <= structure.count_article_tokens(word_count or structure.DEFAULT_WORDS)


async def test_the_callers_keywords_are_the_articles(provider: BaseProvider) -> None:
    article = await provider.generate_seo_content("bread", word_count=10, keywords=["sourdough", "oven"])
    assert article["keywords"] == ["sourdough", "oven"]


async def test_an_article_beyond_the_longest_says_what_it_dropped(
    provider: BaseProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MAX_WORDS", 10)
    article = await provider.generate_seo_content("bread", word_count=11)
    assert isinstance(article, Article)
    assert article.dropped_params == ("word_count",)


async def test_too_few_tokens_are_a_clear_error(provider: BaseProvider) -> None:
    with pytest.raises(ContentInvalid, match="after one repair"):
        await provider.generate_seo_content("bread", max_tokens=12)


async def test_any_schema_is_kept_to_and_ends(provider: BaseProvider) -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "tags"],
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    }
    reply = await provider.generate_content("Describe a cat.", json_schema=schema)
    assert isinstance(reply, Reply)
    assert reply.finish_reason == "stop"
    data = json.loads(reply)
    assert data["name"]
    assert 1 <= len(data["tags"]) <= structure.MAX_ITEMS


@pytest.mark.parametrize(
    ("cut", "closed"),
    [
        ('{"a": "x', '{"a": "x"}'),
        ('{"a": "x\\', '{"a": "x"}'),
        ('{"a": "x\\u06', '{"a": "x"}'),
        ('{"a": "x \\"y\\" z', '{"a": "x \\"y\\" z"}'),
        ('{"a": ["x", "y', '{"a": ["x", "y"]}'),
        ('{"a": {"b": [1', '{"a": {"b": [1]}}'),
        ('{"a": "}]', '{"a": "}]"}'),
        ('{"a": 1}', '{"a": 1}'),
        ('{"a":', '{"a":'),
        ("", ""),
    ],
)
def test_json_that_was_cut_is_closed_where_that_is_enough(cut: str, closed: str) -> None:
    assert structure.close_json(cut) == closed


@pytest.mark.parametrize(
    ("schema", "bounded"),
    [
        ({"type": "string"}, {"type": "string", "minLength": 1, "maxLength": 600}),
        ({"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 9}),
        ({"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "array", "maxItems": 2}, {"type": "array", "maxItems": 2}),
        (
            {"anyOf": [{"type": "array", "items": {"type": "string"}}]},
            {
                "anyOf": [
                    {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 6,
                        "items": {"type": "string", "minLength": 1, "maxLength": 600},
                    }
                ]
            },
        ),
    ],
)
def test_a_schema_without_an_end_is_given_one(schema: dict[str, Any], bounded: dict[str, Any]) -> None:
    assert structure.bound(schema) == bounded

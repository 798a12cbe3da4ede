"""README's table of providers is what the command prints."""

from io import StringIO
from pathlib import Path

from django.core.management import call_command

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_shows_what_the_providers_can_do() -> None:
    output = StringIO()
    call_command("ai_matrix", stdout=output)
    table = output.getvalue().strip()
    assert table.count("\n") > 6
    assert table in README.read_text(encoding="utf-8")

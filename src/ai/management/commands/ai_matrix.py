from typing import Any

from django.core.management.base import BaseCommand

from src.ai.providers.registry import AIProviderRegistry

# A column of the table, and the method that a provider must implement to have it.
COLUMNS = {
    "chat": "chat",
    "content": "generate_seo_content",
    "image": "generate_image",
    "audio": "text_to_speech",
    "list models": "get_available_models",
    "validate key": "validate_api_key",
}


class Command(BaseCommand):
    """Prints which provider has which operation, as README's table: read off the classes, kept nowhere."""

    help = "Print the table of providers and operations, in Markdown."

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the table to standard output."""
        registry = AIProviderRegistry()
        lines = [["provider", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
        for name in registry.get_registered_names():
            supports = registry.get(name).supports
            lines.append([name, *("✓" if supports(method) else "-" for method in COLUMNS.values())])
        self.stdout.write("\n".join(f"| {' | '.join(line)} |" for line in lines))

"""Each vendor's side of the conversation: one module per registered provider, see `tests.providers.answers`."""

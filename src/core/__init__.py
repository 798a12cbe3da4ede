"""What is not about AI: base model, cache, encryption, the I/O loop and connection pool."""

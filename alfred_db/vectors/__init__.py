"""Vectors: column types, binary formats, and distances."""

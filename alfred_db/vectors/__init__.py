"""Vectors: column types, wire formats, distances."""

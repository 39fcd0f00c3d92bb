"""Measures parent and candidate with the same ruler."""

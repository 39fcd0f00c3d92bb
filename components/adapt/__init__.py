"""Learns what it is that must be lost."""

"""Puts the approved bytes into service."""

"""Brings the models in, checked against their pinned digests."""

"""One file per outside service or place: what the rooms keep, serve and tell."""

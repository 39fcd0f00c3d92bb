"""Makes the candidate: the parent that has been made to forget."""

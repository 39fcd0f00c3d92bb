"""Says what is to be forgotten, what is to be kept, and what is held back for evaluation."""

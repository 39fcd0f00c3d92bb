"""What leaves the house: a bundle that a stranger can check, a certificate, a public summary, a letter."""

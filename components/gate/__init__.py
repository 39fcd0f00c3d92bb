"""Turns a report, a policy and signed decisions into a verdict and a token."""

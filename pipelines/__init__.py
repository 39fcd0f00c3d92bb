"""The plans, the supervisor that runs them on one machine, and the command line."""

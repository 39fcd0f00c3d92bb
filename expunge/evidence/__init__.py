"""Who signed what over which bytes: keys, envelopes, statements, decisions, the ledger, and their check."""

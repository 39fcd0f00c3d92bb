"""Custody of what was to be forgotten: finding every copy of it, and saying under signature what became of them.

`wanted` holds what is looked for, `contents` what a file opens into, `searchers` one kind of file each, `places` where
files lie, `sweeping` brings the four together, and `receipts` are the records that are left.
"""

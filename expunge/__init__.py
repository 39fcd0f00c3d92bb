"""The foundation: what the seven rooms share.

`contracts` are the records that pass from room to room, `models` and `methods` do the learning and the
forgetting, `measure` turns samples into intervals and intervals into a verdict, `samples` keeps the sample
sets encrypted and versioned, `evidence` signs and remembers, `stores` talk to the services outside.
"""

__version__ = "0.1.0"

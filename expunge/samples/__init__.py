"""Sample sets: what is to be forgotten, what is to be kept, and what evaluation holds back.

Images are packed into Parquet shards, encrypted under the request's key before they touch a disk, and
versioned by DVC, which only ever sees ciphertext.
"""

from expunge.samples.encryption import RequestKey
from expunge.samples.labels import UNKNOWN, as_known_to, as_known_to_judge, renumbered
from expunge.samples.sample_sets import NewSampleSet, read_samples, refuse_overlap, write_sample_sets
from expunge.samples.table import SampleTable

__all__ = [
    "UNKNOWN", "NewSampleSet", "RequestKey", "SampleTable", "as_known_to", "as_known_to_judge", "read_samples",
    "refuse_overlap", "renumbered", "write_sample_sets",
]

"""Sample sets: what is to be forgotten, what is to be kept, and what evaluation holds back.

Images are packed into Parquet shards, encrypted under the request's key before they touch a disk, and
versioned by DVC, which only ever sees ciphertext.
"""

from expunge.samples.encryption import RequestKey
from expunge.samples.sample_sets import NewSampleSet, read_samples, refuse_overlap, write_sample_sets
from expunge.samples.table import SampleTable

__all__ = ["NewSampleSet", "RequestKey", "SampleTable", "read_samples", "refuse_overlap", "write_sample_sets"]

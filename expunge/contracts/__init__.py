"""The records that pass from room to room.

Every record is frozen, refuses keys it does not know, carries its schema's name and version, and names the
digests of all it was made from: lineage is a walk over digests. A digest is the SHA-256 of *stored bytes*;
nobody re-serialises a record to check one. Law: ``read_record(kind, write_record(folder, record)) == record``.
"""

from expunge.contracts.artifacts import (
    Adaptation,
    Candidate,
    Checkpoint,
    Compute,
    Interface,
    SampleRole,
    SampleSet,
    Shard,
    StoredFile,
    StoredModel,
)
from expunge.contracts.decisions import Approval, Release
from expunge.contracts.disposals import (
    DisposedSet,
    Fate,
    FoundThere,
    Kind,
    Listed,
    Listing,
    ParentFate,
    PlaceSearched,
    Receipt,
    SearcherUsed,
    Wish,
)
from expunge.contracts.records import (
    RECORD_FILE,
    Absent,
    AnyRecord,
    Claim,
    Digest,
    Frozen,
    Identifier,
    Person,
    Reason,
    Record,
    describe,
    parse_record,
    read_record,
    read_record_if_any,
    shorten,
    write_record,
)
from expunge.contracts.reports import (
    Control,
    Curve,
    Interval,
    MadeBy,
    Measurement,
    Outcome,
    Policy,
    Report,
    Rule,
    RuleOutcome,
    Stopping,
    Verdict,
)
from expunge.contracts.requests import AUTO, Classes, EarlierRequest, Forget, MethodChoice, Request, Rows, Sampling
from expunge.contracts.sources import (
    Bits,
    ClassifierSource,
    ClassName,
    DataSource,
    DiscriminatorSource,
    Family,
    Hidden,
    LatentShape,
    MaskKind,
    ModelSource,
    Output,
    ParentSource,
    Source,
    ValueRange,
)

__all__ = [
    "AUTO", "RECORD_FILE", "Absent", "Adaptation", "AnyRecord", "Approval", "Bits", "Candidate", "Checkpoint",
    "Claim", "ClassName", "Classes", "ClassifierSource", "Compute", "Control", "Curve", "DataSource", "Digest",
    "DiscriminatorSource", "DisposedSet", "EarlierRequest", "Family", "Fate", "Forget", "FoundThere", "Frozen",
    "Hidden", "Identifier", "Interface", "Interval", "Kind", "LatentShape", "Listed", "Listing", "MadeBy", "MaskKind",
    "Measurement", "MethodChoice", "ModelSource", "Outcome", "Output", "ParentFate", "ParentSource", "Person",
    "PlaceSearched", "Policy", "Reason", "Receipt", "Record", "Release", "Report", "Request", "Rows", "Rule",
    "RuleOutcome", "SampleRole", "SampleSet", "Sampling", "SearcherUsed", "Shard", "Source", "Stopping", "StoredFile",
    "StoredModel", "ValueRange", "Verdict", "Wish", "describe", "parse_record", "read_record", "read_record_if_any",
    "shorten", "write_record",
]

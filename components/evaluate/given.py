"""What the room is given: the records and the folders of the models, checked against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.contracts import (
    Candidate,
    Checkpoint,
    MadeBy,
    Request,
    SampleSet,
    read_record,
    read_record_if_any,
)
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput
from expunge.evidence.coherence import latent_seed

if TYPE_CHECKING:
    import torch

    from expunge.models import Model


@dataclass(frozen=True)
class StoredAs:
    """A model's record and the folder that holds its files."""

    folder: Path
    record: Checkpoint | Candidate

    @property
    def sha256(self) -> str:
        """Digest of its weights."""
        return self.record.weights.sha256

    def load(self, device: "torch.device") -> "Model":
        """The model, in evaluation mode. DoesNotVerify if its files are not those of the record."""
        from expunge.models import load_recorded

        return load_recorded(self.folder, self.record).to(device)


@dataclass(frozen=True)
class Given:
    """Everything that evaluation was given. What a request need not bring is None."""

    request: Request
    request_sha256: str
    policy: Path  # read only to know when sequential sampling may stop: no measurement depends on a limit
    parent: StoredAs
    candidate: StoredAs
    guided_by: StoredAs | None  # the oracle: it guides the search for the unwanted; what was found the judge judges
    judged_by: StoredAs | None
    extractor: StoredAs | None
    reference: StoredAs | None
    origin: StoredAs | None  # the first model of the chain, where earlier requests made the parent
    holdout: SampleSet
    members: SampleSet | None
    # What training could read. Flows and image-to-image models are asked about these very images.
    forget: SampleSet | None
    retain: SampleSet | None
    audit: str = ""  # of a later look at a released candidate: draws other latents than any before

    @classmethod
    def open(cls, *, request: Path, policy: Path, checkpoint: Path, candidate: Path, oracle: Path, judge: Path,
             extractor: Path, reference: Path, origin: Path, forget: Path, retain: Path, holdout: Path,
             members: Path, audit: str = "") -> "Given":
        """Reads the records.

        Raises:
            BadInput: one cannot be read, or two of them do not belong together.
        """
        made = read_record(Candidate, candidate)

        def stored(folder: Path) -> StoredAs | None:
            record = read_record_if_any(Checkpoint, folder)
            return StoredAs(folder, record) if record else None

        given = cls(
            request=read_record(Request, request), request_sha256=sha256_file(request), policy=policy,
            parent=StoredAs(checkpoint, read_record(Checkpoint, checkpoint)), candidate=StoredAs(candidate, made),
            guided_by=stored(oracle), judged_by=stored(judge), extractor=stored(extractor),
            reference=stored(reference), origin=stored(origin),
            holdout=read_record(SampleSet, holdout), members=read_record_if_any(SampleSet, members),
            forget=read_record_if_any(SampleSet, forget), retain=read_record_if_any(SampleSet, retain), audit=audit)
        if made.parent_sha256 != given.parent.sha256:
            raise BadInput("candidate: it was made from another parent than the checkpoint given",
                           "evaluate a candidate beside its own parent")
        for role, images, trained_on in (("forget", given.forget, made.forget_id),
                                         ("retain", given.retain, made.retain_id)):
            if images is not None and trained_on not in (None, images.set_id):
                raise BadInput(f"{role}: it is another set than the one that the candidate was made from",
                               "evaluate a candidate on its own sets")
        return given

    @property
    def oracle(self) -> StoredAs:
        """Who guides the search. BadInput where there is none."""
        return _needed("oracle", self.guided_by)

    @property
    def judge(self) -> StoredAs:
        """Who says what is seen in samples. BadInput where there is none."""
        return _needed("judge", self.judged_by)

    @property
    def named(self) -> dict[str, Any]:
        """What a report of any family says of all that was given, by the report's fields."""
        made = self.candidate.record
        assert isinstance(made, Candidate)  # `open` read no other
        choice = self.request.method
        return {
            "family": made.family, "request_sha256": self.request_sha256, "parent_sha256": self.parent.sha256,
            "candidate_sha256": self.candidate.sha256,
            "made_by": MadeBy(method=made.method, preset=choice.preset, changed=choice.params, chosen=choice.chosen,
                              claim=made.claim),
            "judge_sha256": self.judged_by.sha256 if self.judged_by else None,
            "reference_sha256": self.reference.sha256 if self.reference else None,
            "holdout_id": self.holdout.set_id, "members_id": self.members.set_id if self.members else None,
            "forget_id": made.forget_id, "retain_id": made.retain_id, "latent_seed": self.latent_seed}

    @property
    def compared_by(self) -> dict[str, Any]:
        """Whose features are compared, by the report's fields."""
        by = self.extractor or self.judge
        return {"extractor_sha256": by.sha256, "extractor": by.record.architecture}

    @property
    def latent_seed(self) -> str:
        """From what latents are drawn: known to nobody before the candidate is there."""
        fixed = latent_seed(self.candidate.sha256, self.request_sha256)
        return sha256_bytes(f"{fixed} {self.audit}".encode()) if self.audit else fixed


def _needed(field: str, found: StoredAs | None) -> StoredAs:
    if found is None:
        raise BadInput(f"{field}: samples carry no labels, so somebody has to say what they show", "name one")
    return found

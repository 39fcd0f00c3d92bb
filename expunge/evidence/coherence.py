"""Whether request, candidate, report and policy speak of the same things: gate and deploy both ask this."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from expunge.contracts import RECORD_FILE, Candidate, Policy, Report, Request, parse_record, read_record
from expunge.digests import sha256_bytes, sha256_file
from expunge.documents import parse_document
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence.decisions import Subject

_REMEDY = "run the request again"


@dataclass(frozen=True)
class Case:
    """The evidence on one candidate, found to add up."""

    request: Request
    candidate: Candidate
    report: Report
    policy: Policy
    weights: Path
    subject: Subject


def open_case(*, request: Path, candidate: Path, report: Path, policy: Path) -> Case:
    """Reads the evidence; `candidate` and `report` are folders with a record.

    Raises:
        DoesNotVerify: one of them can no longer be read, two disagree, or a file is not what its record says. Names
            what differs.
    """
    with evidence():
        asked, judged_by = read_record(Request, request), read_policy(policy)
        made, found = read_record(Candidate, candidate), read_record(Report, report)
    weights = candidate / made.weights.name
    agree = [
        ("report: it measured the candidate", found.candidate_sha256, made.weights.sha256),
        ("report: it answers the request", found.request_sha256, sha256_file(request)),
        ("report: it compares with the parent", found.parent_sha256, made.parent_sha256),
        ("report: it drew its latents from", found.latent_seed, latent_seed(
            made.weights.sha256, sha256_file(request))),
        ("candidate: its weights are", _digest_of(weights), made.weights.sha256),
        ("candidate: it was made by", made.method, asked.method.name),
        ("policy: the one at hand is", judged_by.name, asked.policy),
        ("report: unwanted are", _listed(found.unwanted), _listed(
            found.classes.index(item) if item in found.classes else item for item in asked.forget.classes)),
        ("report: forgotten before were", _listed(found.earlier), _listed(
            found.classes.index(item) if item in found.classes else item for item in asked.forget.earlier)),
        *((("report: single images to forget were", str(found.single_images), str(len({*asked.forget.images}))),)
          if found.single_images is not None else ()),
        *((f"report: {file.name} is", _digest_of(report / file.name), file.sha256) for file in found.files)]
    for what, is_, should_be in agree:
        if is_ != should_be:
            raise DoesNotVerify(f"{what} {_short(is_)}, not {_short(should_be)}", _REMEDY)
    subject = Subject.of(request=request, candidate=candidate, report=report, policy=policy)
    return Case(asked, made, found, judged_by, weights, subject)


@contextmanager
def evidence() -> Iterator[None]:
    """What is read in this block was written by rooms and by the supervisor: that it cannot be read is no bad input."""
    try:
        yield
    except BadInput as error:
        raise DoesNotVerify(error.problem, _REMEDY) from None


def read_policy(file: Path) -> Policy:
    """A policy from YAML or JSON, whatever the file is called: pipelines drop suffixes."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadInput(f"policy: {error.strerror or error}", "check the path") from None
    return parse_policy(data)


@lru_cache(maxsize=64)  # thousands of runs have the same few, and YAML is slow to read
def parse_policy(data: bytes) -> Policy:
    """A policy from its file's bytes."""
    return parse_record(Policy, parse_document(data, "policy"), "policy")


def latent_seed(candidate_sha256: str, request_sha256: str) -> str:
    """From what evaluation draws its latents: known to nobody before the candidate is there."""
    return sha256_bytes(bytes.fromhex(candidate_sha256) + bytes.fromhex(request_sha256))


def record_sha256(folder: Path) -> str:
    """Digest of the stored record of a folder."""
    return sha256_file(folder / RECORD_FILE)


def _listed(classes: Iterable[int | str]) -> str:
    return ", ".join(sorted(map(str, classes)))


def _digest_of(file: Path) -> str:
    return sha256_file(file) if file.is_file() else "missing"


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value

"""The bundle: a zip file with everything that a stranger needs to check a run, the same bytes every time.

Files go by their path in the workspace, so that signed statements name them as they are called here. What the
forget set left a trace in stays out: pages with pictures, tables of members, and the sample sets themselves, of which
only the records are there. Features of what was drawn and of held-out images go along if asked for; none of them is of
what was to be forgotten. The manifest is an in-toto Statement of the operator's over every other file.
"""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from expunge.contracts import RECORD_FILE, Digest
from expunge.digests import atomic_path, canonical_json, sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence import copies, decisions, policies
from expunge.evidence.bundle import card, certificate, signing
from expunge.evidence.bundle.gathered import RECORDS, Gathered, Said
from expunge.evidence.checkpoints import open_checkpoint
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import Predicate, Statement, sign_statement
from expunge.evidence.tree import leaf_hash

MANIFEST = "manifest.json"
LEAVES_MOST = 65_536  # entries: up to here all leaf hashes go along, 32 bytes each, and serve any older checkpoint
_NOT_OLDER = "not an older checkpoint of this ledger"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold: when it was written says nothing


class BundlePredicate(Predicate):
    """Its subjects are a bundle's files, taken together when the ledger was of this size."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:bundle:v1"

    run: str
    model: str
    ledger_size: int
    ledger_root: Digest
    keys_on_this_machine: tuple[str, ...]  # of those who signed, whose private keys lay here


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and found to verify."""

    file: Path
    sha256: str
    said: tuple[tuple[str, str], ...]  # what its own verifier prints: PROVED, ATTESTED or NOT SHOWN, and what
    left_out: tuple[str, ...] = ()  # places outside whose checkpoint it has no proof for, and why


def verifier() -> bytes:
    """The program that checks bundles: one file, which needs nothing of ours."""
    return (files("expunge.evidence.standalone") / "verify.py").read_bytes()


def export(found: Gathered, file: Path, *, weights: bool = True, reasons: bool = False,
           checkpoints: Iterable[Path] = (), sign_model: bool = False, deep: bool = False) -> Exported:
    """Writes the bundle of a run in one step, after its own verifier has found nothing wrong with it.

    Of a run that released nothing it has neither weights nor a certificate. Without `weights` only their digest goes
    along. `reasons` are people's own words on why they decided as they did. `checkpoints` are older ones that somebody
    keeps; the bundle then shows that the ledger still begins with them. `deep`: features go along, so that numbers made
    of them can be computed again.

    Raises:
        BadInput: a checkpoint cannot be used, a model signature is asked for and cannot be made or there is no
            release to sign, or there are no features that may leave the house.
        DoesNotVerify: the bundle would not. Names what is wrong; nothing is written.
    """
    from expunge.evidence.standalone import verify

    notes, left_out = _met_on_the_way(found) if found.head.size > LEAVES_MOST else ({}, ())
    content = _content(found, weights, reasons, notes | _named(found, checkpoints), sign_model, deep)
    manifest = Statement.over(
        {name: sha256_bytes(data) if isinstance(data, bytes) else sha256_file(data) for name, data in content.items()},
        BundlePredicate(run=found.run, model=found.request.model, ledger_size=found.head.size,
                        ledger_root=found.head.root, keys_on_this_machine=found.keys_here))
    content[MANIFEST] = sign_statement(manifest, SigningKey.load(found.workspace, OPERATOR))
    with atomic_path(file) as scratch:
        _write(scratch, content)
        said, problem = verify.check(scratch, deep=deep)
        if problem is not None:
            raise DoesNotVerify(f"{problem[0]}: {problem[1]}", "run 'expunge audit verify'")
    return Exported(file, sha256_file(file), tuple(said), left_out)


def _content(found: Gathered, weights: bool, reasons: bool, notes: Mapping[int, bytes], sign_model: bool,
             deep: bool) -> dict[str, bytes | Path]:
    there = [found.workspace.keyring, found.folder / "request.json", found.folder / policies.POLICY_FILE,
             *(found.record_file(room) for room in RECORDS if room in found.rooms),
             *_answers(found), *_sample_sets(found), *(file for file, _ in found.marks)]
    if policies.signature_beside(found.folder / policies.POLICY_FILE) is not None:
        there.append(policies.signature_file(found.folder / policies.POLICY_FILE))
    if deep:
        there.append(_features(found))
    if reasons:
        there += [decisions.reason_file(found.workspace.approvals / found.run / f"{entry.sha256}.json")
                  for entry, _ in found.approvals]
    if found.is_released:
        there += [found.released / "release.json", *(found.released / one.name for one in found.release.beside)]
        if weights:
            there.append(found.released / found.release.weights.name)
    content: dict[str, bytes | Path] = {_name_of(path, found): path for path in there}
    content |= {"verify.py": verifier(), **_ledger(found, notes)}
    if found.is_released:
        return content | _of_a_release(found, content, weights, sign_model, deep)
    if sign_model:
        raise BadInput(f"sign-model: run {found.run} released no model", "leave it out")
    return content | {"README.txt": _readme(found, NOTHING_RELEASED).encode()}


def _name_of(path: Path, found: Gathered) -> str:
    name = path.relative_to(found.workspace.root).as_posix()
    if not path.is_file():
        raise DoesNotVerify(f"{name}: missing", "run 'expunge audit verify'")
    return name


def _of_a_release(found: Gathered, content: Mapping[str, bytes | Path], weights: bool, sign_model: bool,
                  deep: bool) -> dict[str, bytes | Path]:
    """What is said of a release in words, and in the form of others."""
    released, name = found.released, found.release.weights.name
    home, made = released.relative_to(found.workspace.root).as_posix(), certificate.of(found, deep=deep)
    words: dict[str, bytes | Path] = {f"{home}/README.md": card.model_card(found).encode()}
    if sign_model:
        model = {file.removeprefix(f"{home}/"): data for file, data in {**content, **words}.items()
                 if file.startswith(f"{home}/")}
        model[name] = released / name
        words[f"{home}.sig"] = signing.signature(found.workspace, model)
        words[f"{home}.pub.pem"] = signing.public_key(found.workspace)
    text = _readme(found, RELEASED.format(name=name) + (
        "" if weights else f" The weights are not in here: fetch {name} from where it is served."))
    return words | {"certificate.json": made.to_bytes(), "certificate.html": certificate.page(made).encode(),
                    "README.txt": text.encode()}


def _answers(found: Gathered) -> list[Path]:
    """The report's tables of answers: what its rates can be counted from, and nothing of a member."""
    folder = found.record_file("evaluate").parent
    return [folder / file.name for file in found.report.files if file.name.endswith(".csv")]


def _features(found: Gathered) -> Path:
    """The report's features, if they are of nothing that was to be forgotten; BadInput if not, or if there are none."""
    from safetensors import safe_open

    from expunge.evidence.standalone.verify import FEATURES

    file = found.record_file("evaluate").parent / FEATURES
    if FEATURES not in [one.name for one in found.report.files]:
        raise BadInput("deep: the report has no features", "export it without: no number in it is made of any")
    if not file.is_file():
        raise BadInput("deep: the report's features are no longer there", "export it without them")
    with safe_open(file, framework="numpy") as arrays:
        if any(name.startswith("forget.") for name in arrays.keys()):  # noqa: SIM118  # it is no mapping
            raise BadInput("deep: this report keeps its features in one file with those of images to forget",
                           "export it without them: these do not leave the house")
    return file


def _sample_sets(found: Gathered) -> list[Path]:
    """The records of sample sets: where ciphertext lay, how much of it, and keyed digests."""
    said = found.rooms.get("curate_forget_set")
    names = said.what.subjects if said is not None and isinstance(said.what, Statement) else {}
    return [found.workspace.root / name for name in names if name.endswith(f"/{RECORD_FILE}")]


def _ledger(found: Gathered, notes: Mapping[int, bytes]) -> dict[str, bytes | Path]:
    """The run's entries, and proofs that the ledger has them and begins with older checkpoints, which go by size."""
    ledger, size = Ledger.existing(found.workspace), found.head.size
    content: dict[str, bytes | Path] = {"ledger/checkpoint.txt": found.note}
    content |= {_name(said): said.entry.envelope for said in found.said}
    content |= {f"ledger/checkpoints/{older}.txt": note for older, note in notes.items()}
    consistency = {str(older): [one.hex() for one in ledger.consistency(older, size)] for older in notes}
    inclusion = {str(said.entry.position): [one.hex() for one in ledger.inclusion(said.entry.position, size)]
                 for said in found.said}
    content["ledger/proofs.json"] = canonical_json({"inclusion": inclusion, "consistency": consistency})
    if size <= LEAVES_MOST:
        content["ledger/leaves"] = b"".join(leaf_hash(entry.envelope) for entry in ledger.entries()
                                            if entry.position < size)
    return content


def _named(found: Gathered, checkpoints: Iterable[Path]) -> dict[int, bytes]:
    """Checkpoints that somebody asks for, by size. BadInput if one is not an older one of this ledger."""
    notes = {}
    for file in checkpoints:
        older = _older(found, note := file.read_bytes())
        if older is None:
            raise BadInput(f"{file}: {_NOT_OLDER}", "give one that was taken from it")
        notes[older] = note
    return notes


def _met_on_the_way(found: Gathered) -> tuple[dict[int, bytes], tuple[str, ...]]:
    """Older checkpoints that somebody may well have kept, by size, and the places whose own is not among them.

    The one that stood before the run's first entry, those that its entries made, and what lies in the places that
    ``config.yaml`` copies to, as far as they can be read now.
    """
    places = [said.entry.position for said in found.said]
    sizes = {min(places), *(place + 1 for place in places)}
    ledger, left_out = Ledger.existing(found.workspace), list[str]()
    notes = dict(next(ledger.checkpoints(size)) for size in sorted(sizes) if 0 < size <= found.head.size)
    for place, note, wrong in copies.kept(found.workspace):
        older = None if note is None else _older(found, note)
        if note is None or older is None:
            left_out.append(f"the checkpoint kept at {place}: {wrong or _NOT_OLDER}")
        else:
            notes[older] = note
    return notes, tuple(left_out)


def _older(found: Gathered, note: bytes) -> int | None:
    """How many entries a checkpoint is over; None if it is not an older one of the ledger as it was gathered."""
    older, _ = open_checkpoint(note, found.keyring)
    return older.size if older.origin == found.head.origin and older.size <= found.head.size else None


def _name(said: Said) -> str:
    return f"ledger/entries/{said.entry.position:08}.json"


def _write(file: Path, content: Mapping[str, bytes | Path]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(content):
            entry, data = zipfile.ZipInfo(name, _DATE), content[name]
            entry.external_attr = 0o644 << 16
            # Weights do not get smaller, and a stream is as long as it is told to be.
            stored = isinstance(data, Path) and data.suffix in (".safetensors", ".bin")
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            if isinstance(data, bytes):
                archive.writestr(entry, data)
                continue
            entry.file_size = data.stat().st_size
            with data.open("rb") as reading, archive.open(entry, "w") as writing:
                while piece := reading.read(1 << 20):
                    writing.write(piece)


def _readme(found: Gathered, about: str) -> str:
    return f"""Evidence on run {found.run}, by which {found.request.model} was to forget.

{about}

verify.py          checks all of it, with Python 3.9 or newer and the package 'cryptography'; no network:

    python verify.py BUNDLE.zip --served SERVED --checkpoint CHECKPOINT

Do not trust this copy of verify.py: take the published one, or compare
    sha256  {sha256_bytes(verifier())}
with the published digest. SERVED is the file that is being served, fetched from where it is served.
CHECKPOINT is one that was kept where the operator cannot reach it; without it nothing shows that the ledger was only
ever added to. Exit code 0: nothing is wrong; 40: something is, and the last line names it.

manifest.json      the operator's signature over the digest of every other file
keyring.json       public keys, whose they are, and where in the ledger they count
ledger/            statements and decisions (DSSE envelopes), a signed checkpoint (C2SP note), Merkle proofs (RFC 9162)
runs/              the request, and the policy by which it was judged
results/           records of the rooms, the report's numbers, and the answers that its rates were counted from
"""


RELEASED = """It released a model, of which there are here:

certificate.html   what is claimed, what was measured, who agreed, and what is NOT shown; certificate.json is the record
releases/          the released model {name} with its card
taint/             which bytes may not be served any more"""

NOTHING_RELEASED = """IT RELEASED NOTHING. This is a record of what was measured and decided. It approves of no model:
there is no certificate, and its candidate is not to be served."""

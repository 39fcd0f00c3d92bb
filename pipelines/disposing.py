"""Disposing of what was to be forgotten: look for every copy, remove what is ours, destroy the key, sign a receipt.

In this order, so that a cut at any point is continued by the same command:

1. Look through everything, changing nothing. Copies that a person could remove stop it here, unless they are accepted.
2. Sign which files will go, then remove the copies, what killed processes left, and the parent if that is wished.
   The sample sets themselves are still there: whoever is cut off here can look again.
3. Look through everything once more, and write down what was and what remains (``checked.json``).
4. Remove all that is sealed under the request's key: sample sets, adapted weights, resume state; look once more.
5. Overwrite the key and remove it, enter the signed receipt in the ledger, and only then call it one.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from expunge.contracts import (
    FoundThere,
    Kind,
    Listed,
    Listing,
    ParentFate,
    PlaceSearched,
    Receipt,
    SearcherUsed,
    Wish,
    read_record,
    shorten,
    write_record,
)
from expunge.custody import receipts
from expunge.custody.contents import Searcher
from expunge.custody.places import Folder, Place, kept_by, place_of
from expunge.custody.searchers import SealedFiles, searchers
from expunge.custody.sweeping import Found, Sweep, Watch, sweep
from expunge.custody.wanted import LOOKS_LIKE, Wanted
from expunge.digests import HALF, flush, sha256_file, write_atomically
from expunge.errors import BadInput, ExpungeError, Refused
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, ReceiptPredicate, Statement, sign_statement
from expunge.room import exclusive
from expunge.runs import Run, State
from expunge.samples.encryption import RequestKey
from expunge.samples.imported import importing_alone
from expunge.samples.marked import WALL, marked_sets
from expunge.settings import Workspace
from expunge.stores import training_state
from expunge.stores.addresses import scheme, shown
from expunge.stores.sources import DATA_SETS
from expunge.stores.tracking import Tracking
from expunge.stores.walls import Walls
from pipelines.holdings import Holdings, Sets, keys_in
from pipelines.keeping import told_by
from pipelines.sweeping import sweep as sweep_leftovers

WORKSPACE = "workspace"
KEYS = "keys"
_OWN_SAMPLES = ("negative", "positive")
# What a signed statement says of files that go, by what they were.
_REASONS = {"copies": "it was a copy of what was to be forgotten",
            "parent": "it was the model that had learned what was to be forgotten",
            "sealed": "it was sealed for what was to be forgotten"}
_LOST = "lost before, so nothing could be looked for"
_KEY = "overwritten once with random bytes, flushed to disk, removed"
# While one of these is the state of a run of the request, somebody may still need the samples.
_STILL_NEEDED: dict[State, str] = {
    "running": "wait for it, or stop it: expunge cancel {run}",
    "failed": "continue it, or give it up: expunge cancel {run}",
    "releasing": "expunge release {run} completes it",
    "awaiting_approval": "release it or reject it first",
    "approved": "release it or reject it first",
}
_TRAIL = frozenset({".json", ".jsonl", ".log", ".html", ".yaml", ".lock", ".sig", ".txt"})  # what a run leaves
_OF_THE_TRAIL = frozenset({"runs", "approvals", "taint", "policies", "disposals"})
_LISTS = (".csv", ".jsonl")
_ROUNDS = 3  # of removing and looking again, before somebody is asked who keeps putting it back


@dataclass(frozen=True)
class Outlook:
    """What a look through everything came to; nothing was changed."""

    request_id: str
    files: tuple[Listed, ...]
    places: tuple[PlaceSearched, ...]
    images: int
    not_searched: tuple[str, ...]

    @property
    def blocking(self) -> tuple[Listed, ...]:
        """What has to be dealt with, or accepted, before the key is destroyed."""
        return tuple(file for file in self.files if file.blocks)


def look(workspace: Workspace, name: str, wish: Wish, watch: Watch = lambda place, files: None) -> Outlook:
    """Says what a disposal would find, remove and leave. Changes nothing.

    Raises:
        BadInput: there is no such run or request, it was disposed of already, or a place is not there.
        Refused: a run of it is not over.
    """
    disposal = _Disposal(workspace, name, wish, watch)
    disposal.refuse_unless_over()
    receipts.refuse_disposed(workspace, disposal.request_id)
    return disposal.outlook(disposal.swept())


def dispose(workspace: Workspace, name: str, wish: Wish, watch: Watch = lambda place, files: None) -> Receipt:
    """Disposes of what a request wanted forgotten, or completes what an earlier call began. Returns the receipt.

    Of a request that was disposed of already, its receipt.

    Raises:
        BadInput: there is no such run or request, the person has no key here, a place is not there.
        Refused: a run of it is not over, or copies remain that a person could remove.
        WorkspaceBusy: a run or an import works here.
    """
    with exclusive(workspace.root / "supervisor.lock", f"workspace: a run works in {workspace.root}",
                   "wait for it, or stop it"), importing_alone(workspace):
        disposal = _Disposal(workspace, name, wish, watch)
        done = receipts.receipt_of(workspace, disposal.request_id)
        return done if done is not None else disposal.carry_out()


def after_step(step: str) -> None:
    """Called after each change that a cut could come behind; tests replace it."""


class _Disposal:
    """The disposal of one request in one workspace."""

    def __init__(self, workspace: Workspace, name: str, wish: Wish, watch: Watch) -> None:
        self.workspace, self._watch = workspace, watch
        self.request_id = Run.find(workspace, name).state().request_id
        self.runs = [run for run in Run.all(workspace) if run.state().request_id == self.request_id]
        self._holdings = Holdings(workspace, self.request_id, self.runs)
        asked = wish.model_copy(update={"also": tuple(map(_absolute, wish.also))})
        places = {given: place_of(given) for given in asked.also}
        self.wish = self._wish_so_far(asked)
        for given in self.wish.also:
            with suppress(BadInput):  # one that was named before, and that somebody has removed since
                places.setdefault(given, place_of(given))
        self._also = list(places.values())
        self._by = self.wish.by or OPERATOR
        SigningKey.load(workspace, self._by)
        self._searchers: tuple[Searcher, ...] = ()
        self._sets = Sets()
        self._by_record: set[str] = set()  # what the lost key sealed
        self._unreached: list[str] = []  # of what MLflow keeps

    def _wish_so_far(self, asked: Wish) -> Wish:
        file = receipts.wish_file(self.workspace, self.request_id)
        return asked.after(read_record(Wish, file)) if file.exists() else asked

    # --------------------------------------------------------------------------------------- in order

    def carry_out(self) -> Receipt:
        """All of it, from wherever it was cut."""
        checked = receipts.checked_file(self.workspace, self.request_id)
        if not checked.exists():
            self.refuse_unless_over()
            for _, marked in marked_sets(self.workspace, self.request_id):  # what they were marked on holds them, too
                Walls(self.workspace).delete(marked.made_from[WALL])
            self._write_down(self._remove_copies())
        receipt = read_record(Receipt, checked)
        self._remove_sealed()
        self._destroy_key()
        statement = Statement.over({}, ReceiptPredicate(receipt=receipt))
        Ledger.open(self.workspace).append(sign_statement(statement, SigningKey.load(self.workspace, OPERATOR)))
        after_step("the receipt is in the ledger")
        checked.replace(receipts.receipt_file(self.workspace, self.request_id))
        flush(checked.parent)
        after_step("done")
        return receipt

    def refuse_unless_over(self) -> None:
        """Refused as long as a run of the request may still need its samples, or people have to decide on it."""
        for run in self.runs:
            state = run.state().state
            if state in _STILL_NEEDED:
                raise Refused(f"run '{run.name}' is {state.replace('_', ' ')}: its samples are still needed",
                              _STILL_NEEDED[state].format(run=run.name))

    def _remove_copies(self) -> Outlook:
        """Looks, says under signature what goes, removes it, and looks again until nothing of it is there."""
        for number in range(_ROUNDS):
            outlook = self.outlook(self.swept())
            going = [file for file in outlook.files if file.removed and not file.sealed]
            if not going and number:
                return outlook
            if outlook.blocking and not self.wish.leave_found:
                raise Refused(_blocked(outlook), "remove them, or accept them by --leave-found: the receipt names them")
            self._begin(outlook)
            self._remove(self._digests(file.path for file in going), "copies")
            sweep_leftovers(self.workspace)
            after_step("what killed processes left is gone")
            if self.wish.parent == "destroyed":
                self._remove(self._holdings.parents_copies()[0], "parent")
        raise ExpungeError(f"copies come back in {self.workspace.root}: {going[0].path}",
                           "find out who writes them there, then give the same command again")

    def _begin(self, outlook: Outlook) -> None:
        """From here on the request is being disposed of, and says so."""
        self.wish = self.wish.model_copy(update={"began_at": self.wish.began_at or _now()})
        write_record(receipts.wish_file(self.workspace, self.request_id), self.wish)
        after_step("the wish is written")
        self._list(outlook)
        after_step("the listing is written")

    def _list(self, outlook: Outlook) -> Listing:
        """Writes down every file by name, also those that were found before and are gone."""
        file = receipts.listing_file(self.workspace, self.request_id)
        earlier = read_record(Listing, file).files if file.exists() else ()
        files = {(one.place, one.path): one for one in (*outlook.files, *(gone for gone in earlier if gone.removed))}
        listing = Listing(request_id=self.request_id, nonce=secrets.token_hex(16), files=tuple(files.values()))
        write_atomically(file, listing.to_bytes(), mode=0o600)
        return listing

    def _write_down(self, outlook: Outlook) -> None:
        """What was found, removed and left, as it stands before the key goes."""
        listing = self._list(outlook)
        after_step("the listing is written again")
        self._sign(self._digests(file.path for file in outlook.files if file.sealed and file.removed), "sealed")
        said = [one for one in told_by(self.workspace).disposals
                if one.request_id == self.request_id and one.reason in _REASONS.values()]
        here, left = self._holdings.parents_copies()
        request, fate = self.runs[0].request(), self.wish.parent or "kept"
        write_record(receipts.checked_file(self.workspace, self.request_id), Receipt(
            request_id=self.request_id,
            request_sha256=tuple(dict.fromkeys(run.state().request_sha256 for run in self.runs)),
            by=self._by, reason=self.wish.reason or "", began_at=self.wish.began_at or _now(), checked_at=_now(),
            sets=tuple(self._sets.described), images=len(self._sets.wanted), tensors=len(self._sets.wanted.tensors),
            searchers=tuple(SearcherUsed(name=one.name, version=one.version, finds=one.finds)
                            for one in self._searchers),
            looks_like=LOOKS_LIKE, places=outlook.places, not_searched=outlook.not_searched,
            found=tuple(_summed(listing.files)),
            destroyed={what: sum(one.files for one in said if one.reason == reason)
                       for what, reason in _REASONS.items()},
            statements=tuple(one.sha256 for one in said), key=_LOST if self.wish.key_lost else _KEY,
            listing_sha256=sha256_file(receipts.listing_file(self.workspace, self.request_id)),
            parent=ParentFate(
                sha256=request.checkpoint.sha256 or "", fate=fate, reason=self.wish.parent_reason or "nobody said why",
                copies_left=len(here) + len(left)),
            redrawn=tuple(one for one in _OWN_SAMPLES if any(made.role == one for made in self._sets.described))))
        after_step("what was checked is written down")

    def _remove_sealed(self) -> None:
        """Removes what is sealed under the request's key, wherever in the workspace; without the key it is done."""
        for run in self.runs:  # a copy that cannot be removed stays as what the key no longer opens
            training_state.remove_all_of(self.workspace, run.name)
        key = self._holdings.key()
        if key is None and not self.wish.key_lost:
            return
        for _ in range(_ROUNDS):
            swept = sweep([self._workspace_place()], Wanted(), [SealedFiles(key)], self._watch) if key else Sweep()
            going = [*(file.path for file in swept.found if file.sealed),
                     *self._digests(self._holdings.sealed_by_record())]
            if not going:
                return
            self._remove(self._digests(going), "sealed")
        raise ExpungeError(f"sealed files come back in {self.workspace.root}: {going[0]}",
                           "find out who writes them there, then give the same command again")

    def _destroy_key(self) -> None:
        """Overwrites the key and removes it. What a disk or a backup keeps of it, nobody can say from here."""
        file = RequestKey.file(self.workspace, self.request_id)
        with suppress(FileNotFoundError), file.open("r+b", buffering=0) as handle:
            handle.write(os.urandom(max(32, file.stat().st_size)))
            os.fsync(handle.fileno())
            after_step("the key is overwritten")
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            flush(file.parent)
        after_step("the key is gone")

    # ---------------------------------------------------------------------------------------- looking

    def swept(self) -> Sweep:
        """A look through every place, for all that the request's sets hold."""
        key = self._holdings.key()
        if (key is None) != self.wish.key_lost:
            raise BadInput("--key-is-lost: the key is here", "leave that out") if key else BadInput(
                f"the key of request '{self.request_id}' is not in {self.workspace.keys}",
                "restore it, for without it nobody knows what to look for; or give --key-is-lost: what it sealed goes")
        self._sets = self._holdings.open_sets(key)
        others = [other for other in keys_in(self.workspace) if other.request_id != self.request_id]
        self._searchers = searchers(key, others)
        places = [self._workspace_place(), Folder(KEYS, self.workspace.keys), *self._sources(), *self._also,
                  *self._kept_by_mlflow()]
        return sweep(places, self._sets.wanted, self._searchers, self._watch)

    def outlook(self, swept: Sweep) -> Outlook:
        """What was found, each file with its fate."""
        signed = {name for _, statement in told_by(self.workspace).recorded.values() for name in statement.subjects}
        named = {place.name for place in self._sources()}
        self._by_record = self._holdings.sealed_by_record() if self.wish.key_lost else set()
        return Outlook(
            self.request_id, tuple(self._judged(found, signed, named) for found in swept.found),
            tuple(PlaceSearched(place=one.place, files=one.files, bytes=one.bytes, pictures=one.pictures,
                                unknown=one.unknown,
                                unread=sum(bool(found.unread) for found in swept.found if found.place == one.place))
                  for one in swept.swept),
            len(self._sets.wanted), self._not_searched())

    def _judged(self, found: Found, signed: set[str], named: set[str]) -> Listed:
        if self.wish.key_lost and found.place == WORKSPACE and found.path in self._by_record:
            found.sealed = True
            found.unread.clear()
        removed, why, blocks = self._fate(found, signed, named)
        return Listed(
            place=found.place, path=found.path, copies=found.copies, parts=found.parts, looks_like=found.looks_like,
            closest=found.closest, weights=found.weights, sealed=found.sealed, pictures=found.pictures,
            owners=tuple(found.owners), unread=tuple(shorten(text) for text in found.unread[:20]), removed=removed,
            why=why, blocks=blocks)

    def _fate(self, found: Found, signed: set[str], named: set[str]) -> tuple[bool, str, bool]:
        """Whether a file is removed, why or why not, and whether its being there stops the disposal."""
        if not found.certain:
            return False, "for a person to look at" if found.looks_like else "could not be read", False
        if found.place != WORKSPACE:
            if found.sealed:
                return False, "nobody can open it once the key is gone", False
            if found.place in named:
                return False, "the request names it as a source: yours to keep or remove", False
            return False, "outside of the workspace: yours to remove", True
        if found.sealed:
            return True, "sealed under the request's key", False
        top, _, rest = found.path.partition("/")
        if found.owners:
            return False, f"in what belongs to {', '.join(_called(owner) for owner in found.owners)}", False
        if self._is_left_over(found.path):
            return True, "left by a process that was killed", False
        if top == "sources":
            return False, "fetched for a request: 'expunge gc --remove' takes it away once nobody needs it", False
        if self._is_evidence(found.path, signed):
            return False, "evidence: what people decided by, or what was released", False
        if top == "samples" and rest.startswith(".git/"):
            return False, "committed to Git: rewrite its history", True
        if found.whole or (found.weights and not found.copies):
            return True, "a copy" if found.copies else "weights that were adapted for the request", False
        return False, "holds other things as well: yours to remove", True

    def _is_evidence(self, path: str, signed: set[str]) -> bool:
        """Whether a file of the workspace is part of the trail: signed, released, or what a run is remembered by."""
        top, suffix = path.partition("/")[0], Path(path).suffix
        if path in signed or top == "releases" or path.startswith(self.workspace.ledger.name):
            return True
        return suffix in _TRAIL and (top in _OF_THE_TRAIL or top == path)

    @staticmethod
    def _is_left_over(path: str) -> bool:
        """Whether a file lies in a scratch folder. Nobody works here now, so whoever made it is gone."""
        parts = Path(path).parts
        scratch = {("results", 1): ".", ("runs", 2): "kfp", ("releases", 2): ".scratch", ("mlflow", 1): "tmp"}
        return path.endswith(HALF) or any(
            parts[0] == top and len(parts) > at + 1 and parts[at].startswith(begins)
            for (top, at), begins in scratch.items())

    def _workspace_place(self) -> Folder:
        return Folder(WORKSPACE, self.workspace.root)

    def _sources(self) -> list[Place]:
        """Files of people's own that the request names, where they are not in the workspace already."""
        found: dict[str, Place] = {}
        for run in self.runs:
            request = run.request()
            for name in DATA_SETS:
                source = getattr(request, name)
                kind = scheme(source.uri) if source is not None else "samples"
                if kind not in ("", "file", "s3"):
                    continue
                given = unquote(urlsplit(source.uri).path) if kind == "file" else source.uri
                if given.endswith(_LISTS):  # the images that it lists lie beside it
                    given = str(Path(given).parent)
                with suppress(BadInput):  # it is no longer there: then nothing is in it
                    found[given] = place_of(given)
        return list(found.values())

    def _kept_by_mlflow(self) -> list[Place]:
        """What an MLflow outside of the workspace keeps, as far as it can be asked from here."""
        tracking = Tracking.for_workspace(self.workspace)
        self._unreached = []
        if tracking.is_own:
            return []
        stores = tracking.stores()
        if stores.reason:
            self._unreached.append(f"what MLflow at {shown(tracking.uri)} keeps ({stores.reason})")
        found: list[Place] = []
        for store in stores.uris:
            try:
                place = kept_by(tracking, store)
            except ExpungeError as error:
                self._unreached.append(f"what MLflow keeps at {shown(store)} ({error.problem})")
            else:
                found += [place] if place else []
        return found

    def _not_searched(self) -> tuple[str, ...]:
        """What might hold copies and was not looked at, in words."""
        said = ["backups, snapshots and other machines, unless they were named",
                "deleted files that a disk still holds", *self._unreached]
        if any(one.missing for one in self._sets.described):
            said.append("copies of images whose sample set could not be opened any more")
        return tuple(said)

    # --------------------------------------------------------------------------------------- removing

    def _digests(self, paths: Iterable[str]) -> dict[str, str]:
        """Files of the workspace that are there, by path, with their digests."""
        return {path: sha256_file(file) for path in paths if (file := self.workspace.root / path).is_file()}

    def _remove(self, files: dict[str, str], what: str) -> None:
        """Says under signature what goes, then removes it."""
        self._sign(files, what)
        for path in files:
            (self.workspace.root / path).unlink(missing_ok=True)
            after_step(f"removed {path}")

    def _sign(self, files: dict[str, str], what: str) -> None:
        """Enters that these files are destroyed, unless the ledger says so of them already."""
        said = told_by(self.workspace).destroyed
        files = {path: digest for path, digest in files.items() if (path, digest) not in said}
        if not files:
            return
        envelope = sign_statement(Statement.over(files, DisposalPredicate(
            request_id=self.request_id, request_sha256=self.runs[-1].state().request_sha256, reason=_REASONS[what],
            by=self._by, at=_now())), SigningKey.load(self.workspace, OPERATOR))
        Ledger.open(self.workspace).append(envelope)
        after_step("what goes is signed")


def _summed(files: Iterable[Listed]) -> Iterator[FoundThere]:
    """Counts by place, kind and fate: no file is named."""
    counts: dict[tuple[str, Kind, bool, str], list[int]] = {}
    for file in files:
        kinds: tuple[tuple[Kind, int], ...] = (
            ("copies", file.copies), ("parts", file.parts), ("looks like", file.looks_like),
            ("adapted weights", file.weights), ("sealed", int(file.sealed)), ("unread", len(file.unread)))
        for kind, count in kinds:
            if count:
                summed = counts.setdefault((_part(file), kind, file.removed, file.why), [0, 0])
                summed[0] += 1
                summed[1] += count
    for (place, kind, removed, why), (number, images) in sorted(counts.items()):
        yield FoundThere(place=place, kind=kind, files=number, images=images, removed=removed, why=why)


def _part(file: Listed) -> str:
    """The place of a file; of the workspace, which part of it."""
    return f"{WORKSPACE}/{file.path.partition('/')[0]}" if file.place == WORKSPACE else file.place


def _blocked(outlook: Outlook) -> str:
    blocking = outlook.blocking
    shown = "; ".join(f"{file.place}/{file.path} ({file.why})" for file in blocking[:3])
    more = f"; and {len(blocking) - 3} more" if len(blocking) > 3 else ""
    return f"{len(blocking)} files with copies remain: {shown}{more}"


def _called(owner: str) -> str:
    """The owner of a key, as people call it."""
    kind, _, name = owner.partition("/")
    return {"_imports": f"samples://{name}", "_walls": "what somebody looks at in the console"}.get(
        kind, f"request '{owner}'")


def _absolute(given: str) -> str:
    return given if scheme(given) else str(Path(given).absolute())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

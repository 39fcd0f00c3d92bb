"""Serving from S3: folders ``<prefix>/<model>/<generation>-<digest>/``, and ``<prefix>/<model>/current``, naming one.

`current` is a small JSON object that is only ever written on the condition that it still is what was read. A condition
compares contents, and a content that came again would be taken for the old one (ABA): so each holds a count of changes
that only rises, and a number drawn for it. It is never removed, because the count would begin again; what is withdrawn
has a `current` that points at nothing. A folder that `current` does not name is not served, however complete it is.

One prefix belongs to one workspace: `current` must name a release of this workspace, or nothing is changed.
"""

import json
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import Field

from expunge.contracts import Digest, Identifier, Record, Release, StoredFile, parse_record
from expunge.digests import flush, sha256_file
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, WorkspaceBusy
from expunge.settings import Workspace
from expunge.stores import s3
from expunge.stores.releases import CURRENT, RELEASE_FILE, LocalReleases, Pointed, ReleaseStore, folder_name, folder_of

PROBE = ".conditional-writes"  # an empty object, by which it is seen whether the server heeds conditions

_GENERATION = re.compile(r"(\d+)-[0-9a-f]{12}/")


class Pointer(Record):
    """The content of `current`: what is served of a model."""

    SCHEMA: ClassVar[str] = "expunge/pointer/v1"

    model: Identifier
    change: Annotated[int, Field(ge=1)]  # one more than before, also when an older release is served again
    generation: int | None  # of the release; null if nothing is served
    folder: Annotated[str, Field(pattern=r"^\d+-[0-9a-f]{12}$")] | None  # beside `current`
    release_sha256: Digest | None  # of that folder's release.json, which has the digests of its files
    at: str
    nonce: str


class S3Releases(ReleaseStore):
    """Served from under a prefix of a bucket."""

    def __init__(self, workspace: Workspace, prefix: str) -> None:
        super().__init__(workspace)
        self._prefix = prefix
        self._before = LocalReleases(workspace)  # what was served before `config.yaml` named S3

    def require_ready(self) -> None:
        """ExpungeError if the server lets anybody write over `current`: two who change it could not tell."""
        if not s3.heeds_conditions(f"{self._prefix}/{PROBE}"):
            raise ExpungeError(f"{self._prefix}: the S3 server does not heed If-Match and If-None-Match",
                               "serve from one that has conditional writes; nothing was changed")

    def pointer(self, model: str) -> str:
        """The address of the object that points."""
        return f"{self._prefix}/{model}/{CURRENT}"

    def served_at(self, release: Release, name: str) -> str:
        """Of the object; of the file, as long as `current` is still the workspace's."""
        if self._is_before(release.model):
            return self._before.served_at(release, name)
        return self._uri(release, name)

    def folder(self, release: Release) -> str:
        """The address of a release's folder."""
        return f"{self._prefix}/{release.model}/{folder_name(release)}"

    def pointed(self, model: str) -> Pointed:
        """What the object says; before there is one, what is served from the workspace."""
        found = s3.read_with_tag(self.pointer(model))
        if found is None:
            return self._before.pointed(model)
        data, tag = found
        try:
            said = parse_record(Pointer, json.loads(data), self.pointer(model))
        except (BadInput, ValueError):
            raise DoesNotVerify(f"{self.pointer(model)}: is not what expunge writes there",
                                "see who wrote it; older versions in the bucket, if it keeps any, are ours") from None
        if said.model != model:
            raise DoesNotVerify(f"{self.pointer(model)}: is that of {said.model}", "see who put it there")
        return Pointed(said.folder, said.release_sha256, tag, said.change)

    def newest_generation(self, model: str) -> int:
        """By the names of what lies there, served or not."""
        bucket, prefix = self._place(model)
        found = (_GENERATION.match(key.removeprefix(prefix)) for key, _ in s3.listing(bucket, prefix))
        return max((int(name[1]) for name in found if name), default=0)

    def place(self, release: Release) -> None:
        """Uploads what is not there yet, `release.json` last; removes what killed uploads of this model left."""
        s3.abort_uploads(*self._place(release.model))
        folder = folder_of(self.workspace, release)
        for file in (*release.beside, release.weights, record_of(self.workspace, release)):
            there = self._uri(release, file.name)
            if s3.stored(there) != s3.Stored(file.size, file.sha256):
                s3.upload(folder / file.name, there, file.sha256)

    def discard(self, release: Release) -> None:
        """Removes its objects, if that is allowed."""
        with suppress(ExpungeError):  # nothing points at them
            for file in (record_of(self.workspace, release), release.weights, *release.beside):
                s3.delete(self._uri(release, file.name))

    def serve(self, model: str, release: Release | None, before: Pointed) -> None:
        """Writes `current`, on the condition that it is what it was."""
        pointer = Pointer(
            model=model, change=before.change + 1, generation=release.generation if release else None,
            folder=folder_name(release) if release else None,
            release_sha256=record_of(self.workspace, release).sha256 if release else None,
            at=datetime.now(UTC).isoformat(timespec="seconds"), nonce=secrets.token_hex(8))
        try:
            s3.write_over(self.pointer(model), pointer.to_bytes(), before.tag)
        except WorkspaceBusy:
            raise WorkspaceBusy(f"{self.pointer(model)}: somebody else has changed what is served meanwhile",
                                "nothing was changed; give the same command again") from None
        link = self.workspace.releases / model / CURRENT
        if link.is_symlink():  # from now on S3 says what is served
            link.unlink()
            flush(link.parent)

    def require_whole(self, release: Release) -> None:
        """Of the workspace's copy, and of the objects; those that are missing are uploaded again."""
        self._before.require_whole(release)
        self.place(release)
        for file in (release.weights, *release.beside):
            if s3.digest(self._uri(release, file.name)) != file.sha256:
                raise DoesNotVerify(f"{self._uri(release, file.name)}: not the bytes that were released")

    def digest(self, release: Release, file: StoredFile, by_bytes: bool = True) -> str | None:
        """Of the object; of the file, as long as `current` is still the workspace's."""
        if self._is_before(release.model):
            return self._before.digest(release, file, by_bytes)
        there = self._uri(release, file.name)
        found = s3.stored(there)
        if found is None:
            return None
        # Whoever uploaded it says no digest: it was not us, and only its bytes tell what it is.
        if by_bytes or found.size != file.size or found.sha256 is None:
            return s3.digest(there)
        return found.sha256

    def _is_before(self, model: str) -> bool:
        return (self.workspace.releases / model / CURRENT).is_symlink()

    def _uri(self, release: Release, name: str) -> str:
        return f"{self.folder(release)}/{name}"

    def _place(self, model: str) -> tuple[str, str]:
        """Bucket and prefix of all that is of a model."""
        bucket, _, prefix = self._prefix.removeprefix("s3://").partition("/")
        return bucket, f"{prefix}/{model}/"


def record_of(workspace: Workspace, release: Release) -> StoredFile:
    """A release's own record, as a file."""
    file = folder_of(workspace, release) / RELEASE_FILE
    return StoredFile(name=RELEASE_FILE, sha256=sha256_file(file), size=file.stat().st_size)

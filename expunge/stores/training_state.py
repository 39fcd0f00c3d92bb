"""Copies of what a training step continues from, in a place that outlives its disk: a bucket, or a folder.

Everything is sealed before it comes here. A copy is ``<store>/<run>/<room>-<work>.resume``: `work` is the digest of all
that the step's result follows from, so that other work never finds it. Nothing that goes wrong with a copy stops a
step: it is said, and training goes on.
"""

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from expunge.configuration import Configuration, TrainingState
from expunge.contracts import shorten
from expunge.digests import atomic_path, sha256_file
from expunge.errors import BadInput, ExpungeError
from expunge.settings import Workspace
from expunge.stores import s3
from expunge.stores.addresses import shown

STORE_VARIABLE = "EXPUNGE_STATE_STORE"  # for a step whose pod has no configuration of its own
EVERY_VARIABLE = "EXPUNGE_STATE_EVERY"
_BEING_SENT = ".sending"  # in the name of what a copy is made of, beside the state itself


def settings(workspace: Workspace, environment: Mapping[str, str] = os.environ) -> TrainingState:
    """Where state is copied to and how often it is kept, as the environment says, else `config.yaml`.

    Raises:
        BadInput: the environment says something else than an address and a number of seconds.
    """
    found = Configuration.load(workspace).training_state or TrainingState()
    store, every = environment.get(STORE_VARIABLE), environment.get(EVERY_VARIABLE)
    try:
        return TrainingState(store=store or found.store, every=float(every) if every else found.every)
    except ValueError:
        raise BadInput(f"{STORE_VARIABLE}, {EVERY_VARIABLE}: '{shorten(shown(store or ''))}', '{shorten(every or '')}' "
                       "are not both usable", "write s3://bucket/prefix or an absolute path, and seconds") from None


@dataclass(frozen=True)
class _Place:
    """Where one copy is."""

    uri: str  # s3://bucket/key, or a path

    @property
    def is_remote(self) -> bool:
        return self.uri.startswith("s3://")

    def write(self, file: Path) -> None:
        if self.is_remote:
            s3.upload(file, self.uri, sha256_file(file))
            return
        with atomic_path(Path(self.uri), mode=0o600) as half:
            shutil.copyfile(file, half)

    def read(self, scratch: Path) -> bytes | None:
        """What is there, or None; `scratch` is the name of a file that may be written meanwhile."""
        if not self.is_remote:
            return Path(self.uri).read_bytes() if Path(self.uri).exists() else None
        if s3.stored(self.uri) is None:
            return None
        try:
            s3.download(self.uri, scratch)
            return scratch.read_bytes()
        finally:
            scratch.unlink(missing_ok=True)

    def remove(self) -> None:
        if self.is_remote:
            s3.delete(self.uri)
        else:
            Path(self.uri).unlink(missing_ok=True)


class StateCopies:
    """The copy of one step's state. What is sent goes in the background, and of several waiting only the newest."""

    def __init__(self, store: str, name: str, note: Callable[[str], None]) -> None:
        self._place, self._note = _Place(f"{store.rstrip('/')}/{name}"), note
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._sending = False
        self._sender: threading.Thread | None = None
        self._said = False  # that copies fail, since the last one that did not

    def fetch(self, scratch: Path) -> bytes | None:
        """The copy, if there is one and it can be had; else a note says why it cannot."""
        try:
            return self._place.read(scratch)
        except (ExpungeError, OSError) as error:
            self._note(f"what was kept in {self._where} cannot be fetched: {_why(error)}")
            return None

    def send(self, file: Path) -> None:
        """Has a file copied as it is now or becomes. Returns at once."""
        with self._changed:
            self._waiting = file
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_what_waits, daemon=True, name="copies of state")
                self._sender.start()
            self._changed.notify_all()

    def settle(self, within: float) -> bool:
        """Waits until nothing is being sent, no longer than so many seconds; says whether that was enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._sending, within)

    def remove(self, within: float = 10.0) -> None:
        """Removes the copy, once what is on its way has arrived; what comes later stays, and a note says so."""
        with self._changed:
            self._waiting = None
        arrived = self.settle(within)
        try:
            self._place.remove()
            if not arrived:
                raise ExpungeError("one more was on its way")
        except (ExpungeError, OSError) as error:
            self._note(f"state may have stayed in {self._where}, sealed: {_why(error)}")

    @property
    def _where(self) -> str:
        return shorten(shown(self._place.uri))

    def _send_what_waits(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                file, self._waiting, self._sending = self._waiting, None, True
            assert file is not None
            try:
                self._send_now(file)
                self._said = False
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the training
                if not self._said:
                    self._note(f"state was not kept in {self._where}: {_why(error)}; training goes on")
                self._said = True
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _send_now(self, file: Path) -> None:
        """The state is replaced while it is sent: what is sent is this very version of it."""
        version = file.with_name(f"{file.stem}{_BEING_SENT}{file.suffix}")
        version.unlink(missing_ok=True)
        try:
            try:
                os.link(file, version)
            except FileNotFoundError:  # the step has succeeded meanwhile: there is nothing to continue from
                return
            except OSError:  # a file system without links
                shutil.copyfile(file, version)
            self._place.write(version)
        finally:
            version.unlink(missing_ok=True)


def remove_all_of(workspace: Workspace, run: str) -> str:
    """Removes every copy that steps of a run have left; what could not be done, or nothing to say."""
    try:
        store = settings(workspace).store
        if store is None:
            return ""
        if not store.startswith("s3://"):
            shutil.rmtree(Path(store, run), ignore_errors=True)
            return ""
        parts = urlsplit(store)
        prefix = f"{parts.path.strip('/')}/{run}/"
        with suppress(BadInput):  # servers that tell nothing of what was begun
            s3.abort_uploads(parts.netloc, prefix)
        for key, _ in s3.listing(parts.netloc, prefix):
            s3.delete(f"s3://{parts.netloc}/{key}")
        return ""
    except (ExpungeError, OSError) as error:
        return f"state may have stayed in the store, sealed: {_why(error)}"


def _why(error: BaseException) -> str:
    return error.problem if isinstance(error, ExpungeError) else f"{type(error).__name__}: {error}"

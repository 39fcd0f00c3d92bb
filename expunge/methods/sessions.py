"""What the two training rooms give a method to work with: progress, a device, and encrypted resumable state."""

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch

from expunge.contracts import SampleSet
from expunge.digests import write_atomically
from expunge.errors import BadInput, Cancelled, DoesNotVerify
from expunge.methods.training import Samples, Session
from expunge.room import RESUME_SUFFIX, Entered
from expunge.samples import RequestKey, read_samples
from expunge.settings import current_run
from expunge.stores import training_state
from expunge.stores.training_state import StateCopies

RATHER = 20  # times as long as a state took to keep goes by, at least, before the next
SENT_WITHIN = 20.0  # seconds that a step which is told to stop may take to send its state
STOPS_WITHIN = 25.0  # seconds after which it ends, wherever it is: Kubernetes kills after 30


class RoomSession(Session):
    """A session whose state is sealed under the request's key, for it may show the unwanted thing."""

    def __init__(self, entered: Entered, key: RequestKey, seed: int, threads: int) -> None:
        super().__init__(seed, threads, "cuda" if torch.cuda.is_available() else "cpu")
        self._entered, self._key = entered, key
        self._every = training_state.settings(entered.workspace).every
        self._next = time.monotonic() + self._every
        self._stop = False
        self._copies = copies_of(entered)
        if self._copies is not None:
            entered.afterwards.append(self._copies.remove)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it, SIGTERM has the state kept after the step that is being done, and ends the work by Cancelled."""
        if threading.current_thread() is not threading.main_thread():  # only there can signals be heard
            yield
            return

        def stop(*_: object) -> None:
            if not self._stop:
                self._stop = True
                late.start()

        late = threading.Timer(STOPS_WITHIN, os._exit, (128 + signal.SIGTERM,))
        late.daemon = True
        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            late.cancel()

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Hands progress to whoever watches the run."""
        self._entered.progress(step, total, **scalars)

    def note(self, text: str) -> None:
        """Hands a sentence to whoever watches the run."""
        self._entered.note(text)

    def resume(self) -> dict[str, Any] | None:
        """The state that a killed attempt at the very same work left, here or in the store, or None."""
        file = self._entered.resume_file
        if file.exists() and (data := self._opened(file.read_bytes(), "here")) is not None:
            return self._loaded(data)
        if self._copies is None:
            return None
        sealed = self._copies.fetch(file.with_name(f"{file.stem}.{os.getpid()}{file.suffix}"))
        data = None if sealed is None else self._opened(sealed, "in the store")
        if data is None:
            return None
        self.note("goes on from the state that was kept in the store")
        return self._loaded(data)

    def wants_state(self, step: int) -> bool:
        """By the clock, and after the step that is being done when somebody tells this process to stop."""
        return self._stop or time.monotonic() >= self._next

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keeps the state: on disk now, in the store soon.

        Raises:
            Cancelled: this process was told to stop, and has kept it.
        """
        began = time.monotonic()
        try:
            self._keep(state)
        except OSError as error:  # a full disk, for one: what comes of the training may be kept elsewhere
            self.note(f"state was not kept: {type(error).__name__}: {error}; training goes on")
        now = time.monotonic()
        self._next = now + max(self._every, RATHER * (now - began))
        if self._stop:
            sent = self._copies is None or self._copies.settle(SENT_WITHIN)
            unsent = "" if sent else ", and its state was not sent"
            raise Cancelled(f"{self._entered.name}: was told to stop{unsent}", "the same again continues it")

    def _keep(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        buffer.write(bytes.fromhex(self._entered.work))
        torch.save(state, buffer)
        write_atomically(self._entered.resume_file, self._key.seal(buffer.getvalue()))
        if self._copies is not None:
            self._copies.send(self._entered.resume_file)

    def _opened(self, sealed: bytes, where: str) -> bytes | None:
        """What was kept, if it is of this very work; else a note says that it is not taken."""
        work = bytes.fromhex(self._entered.work)
        try:
            data = self._key.open(sealed, f"the state that was kept {where}")
            if not data.startswith(work):
                raise DoesNotVerify(f"the state that was kept {where} is of other work")
        except DoesNotVerify as error:
            self.note(f"not taken: {error.problem}")
            return None
        return data[len(work):]

    def _loaded(self, data: bytes) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=self.device, weights_only=True)
        return state


def copies_of(entered: Entered) -> StateCopies | None:
    """Where a copy of a room's state goes; None if nowhere."""
    store = training_state.settings(entered.workspace).store
    return None if store is None else StateCopies(
        store, f"{current_run()}/{entered.name}-{entered.work}{RESUME_SUFFIX}", entered.note)


@overload
def load_samples(entered: Entered, record: SampleSet) -> Samples: ...
@overload
def load_samples(entered: Entered, record: SampleSet | None) -> Samples | None: ...
def load_samples(entered: Entered, record: SampleSet | None) -> Samples | None:
    """A sample set as the tensors that methods take; None if the request brought none."""
    if record is None:
        return None
    table = read_samples(entered.workspace, record)
    return Samples(images=torch.from_numpy(table.images), labels=torch.from_numpy(table.labels),
                   latents=None if table.latents is None else torch.from_numpy(table.latents))


def key_of(entered: Entered, *records: SampleSet | None) -> RequestKey:
    """The request's key, by whichever of its sample sets is there. BadInput if none is."""
    for record in records:
        if record is not None:
            return RequestKey.load(entered.workspace, record.request_id)
    raise BadInput("training: there is no sample set to learn from", "name labelled images in the request: training")


def lost(negatives: SampleSet | None, forgotten: SampleSet | None) -> tuple[int, ...]:
    """The classes that must be gone, by this request and by earlier ones, as the first set that is there numbers them.

    What was forgotten before must not come back: to whoever guides the training it is as unwanted as the rest. Where
    real images are all there is, that goes for the classes of which some were brought.
    """
    if negatives is not None:
        return tuple(sorted({*negatives.unwanted, *negatives.earlier}))
    if forgotten is None:
        return ()
    return tuple(sorted({*forgotten.unwanted, *(
        label for label in forgotten.earlier if forgotten.class_counts.get(str(label)))}))

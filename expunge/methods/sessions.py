"""What the two training rooms give a method to work with: progress, a device, and encrypted resumable state."""

import io
import time
from typing import Any, overload

import torch

from expunge.contracts import SampleSet
from expunge.digests import write_atomically
from expunge.errors import BadInput, DoesNotVerify
from expunge.methods.training import Samples, Session
from expunge.room import Entered
from expunge.samples import RequestKey, read_samples

SAVE_EVERY = 10.0  # seconds: what a killed run can lose at most, against what writing costs


class RoomSession(Session):
    """A session whose state is sealed under the request's key, for it may show the unwanted thing."""

    def __init__(self, entered: Entered, key: RequestKey, seed: int, threads: int) -> None:
        super().__init__(seed, threads, "cuda" if torch.cuda.is_available() else "cpu")
        self._entered, self._key = entered, key
        self._saved = time.monotonic()

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Hands progress to whoever watches the run."""
        self._entered.progress(step, total, **scalars)

    def note(self, text: str) -> None:
        """Hands a sentence to whoever watches the run."""
        self._entered.note(text)

    def resume(self) -> dict[str, Any] | None:
        """The state that a killed attempt at the very same work left, or None."""
        file = self._entered.resume_file
        if not file.exists():
            return None
        try:
            data = self._key.open(file.read_bytes(), file.name)
        except DoesNotVerify as error:
            self._entered.note(f"begins anew: {error.problem}")
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=self.device, weights_only=True)
        return state

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keeps the state on disk, at most every ten seconds."""
        if time.monotonic() - self._saved < SAVE_EVERY:
            return
        self._saved = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self._entered.resume_file, self._key.seal(buffer.getvalue()))


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

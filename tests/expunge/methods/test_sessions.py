"""Training that goes on where a killed step was, from its disk or, in a fresh pod, from the store."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from s3_server import between, bucket, environment, s3_server  # noqa: F401 - fixtures

from expunge.errors import BadInput, Cancelled
from expunge.methods.sessions import RoomSession
from expunge.methods.training import Loop
from expunge.room import room
from expunge.samples import RequestKey
from expunge.stores import training_state

STEPS = 12
STORES = ("folder", "s3")


class Preempted(BaseException):
    """Stands for a SIGKILL: nothing of the step's own runs after it, here but for the frame's."""


class Step:
    """A small training room in a workspace whose disk can be lost, and what it noted."""

    def __init__(self, workspace, tmp_path, notes):
        self.workspace, self.folder, self.notes = workspace, tmp_path, notes
        self.trained = []  # the steps of the last call
        self.key = RequestKey.load_or_create(workspace, "forget-8")

    def __call__(self, seed=0, during=lambda step: None):
        self.trained.clear()

        @room(outputs=("out",))
        def train(entered, *, seed: int, out: Path):
            torch.manual_seed(seed)
            model = torch.nn.Linear(3, 3)
            optimizer, random = torch.optim.Adam(model.parameters()), torch.Generator().manual_seed(seed)
            session = self.session = RoomSession(entered, self.key, seed, 1)

            def one_step(step):
                during(step)
                self.trained.append(step)
                optimizer.zero_grad()
                loss = model(torch.randn(4, 3, generator=random)).square().mean()
                loss.backward()
                optimizer.step()
                return {"loss": loss}

            with session.training():
                Loop(session, "train", STEPS, {"model": model, "optimizer": optimizer}, random).run(one_step)
            (out / "weights").write_bytes(model.weight.detach().numpy().tobytes())

        train(seed=seed, out=self.folder / "out", statement=self.folder / "statement.json")
        return (self.folder / "out" / "weights").read_bytes()

    def until(self, step, seed=0):
        """Trains until the pod is lost before a step, and with it everything that its disk held of the training."""
        def lose(now):
            if now == step:
                assert self.session._copies.settle(10), "what is on its way would arrive after the pod is gone"
                raise Preempted

        with pytest.raises(Preempted):
            self(seed, lose)
        self.lose_disk()

    def lose_disk(self):
        for file in self.workspace.root.rglob("*.resume"):
            file.unlink()


@pytest.fixture
def step(workspace, tmp_path, monkeypatch, capsys):
    notes = []
    monkeypatch.setattr("expunge.room.Entered.note", lambda entered, text: notes.append(text))
    monkeypatch.setenv(training_state.EVERY_VARIABLE, "0")
    monkeypatch.setattr("expunge.methods.sessions.RATHER", 0)
    return Step(workspace, tmp_path, notes)


@pytest.fixture
def undisturbed(step):
    """The weights without any store, and none of the result left to be reused."""
    found = step()
    for left in step.workspace.results.glob("train-*-*"):
        left.rename(step.folder / left.name)
    return found


@pytest.fixture
def store(request, tmp_path, monkeypatch):
    """What is in the store, as files that can be read and written."""
    if request.param == "folder":
        monkeypatch.setenv(training_state.STORE_VARIABLE, str(tmp_path / "store"))
        return FolderStore(tmp_path / "store")
    made = request.getfixturevalue("bucket")
    monkeypatch.setenv(training_state.STORE_VARIABLE, "s3://models/state")
    return BucketStore(made)


class FolderStore:
    def __init__(self, folder):
        self.folder = folder

    def read(self):
        return {str(file): file.read_bytes() for file in self.folder.rglob("*.resume")}

    def write(self, name, data):
        Path(name).write_bytes(data)


class BucketStore:
    def __init__(self, made):
        self.bucket = made

    def read(self):
        return {one.key: one.get()["Body"].read() for one in self.bucket.objects.all()}

    def write(self, name, data):
        self.bucket.Object(name).put(Body=data)


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_a_fresh_pod_goes_on_from_the_store_to_the_same_weights_and_leaves_nothing(undisturbed, step, store):
    step.until(7)
    name, = store.read()
    assert name.rpartition("/")[2].startswith("train-")
    assert b"model" not in store.read()[name], "it is sealed"
    assert step() == undisturbed
    assert 0 < step.trained[0] <= 7
    assert step.notes == ["goes on from the state that was kept in the store"]
    assert not store.read()
    assert not list(step.workspace.root.rglob("*.resume"))


@pytest.mark.parametrize("store", ["folder"], indirect=True)
@pytest.mark.parametrize("spoil", ["tampered", "of other work", "of another request"])
def test_state_that_is_not_this_steps_own_is_refused_in_a_line_and_the_step_begins_anew(undisturbed, step, store, spoil):
    step.until(7)
    (name, mine), = store.read().items()
    if spoil == "tampered":
        store.write(name, mine[:-1] + bytes([mine[-1] ^ 1]))
    elif spoil == "of other work":  # of the same request, under the same key
        step.until(7, seed=1)
        other, = set(store.read()) - {name}
        store.write(name, store.read()[other])
    else:
        stranger = RequestKey.load_or_create(step.workspace, "another")
        store.write(name, stranger.seal(step.key.open(mine, "mine")))
    assert step() == undisturbed
    assert step.trained[0] == 0
    refused, = step.notes
    assert refused.startswith("not taken: the state that was kept in the store ")


def test_state_that_is_gone_before_it_could_be_sent_is_no_failure(tmp_path):
    notes = []
    copies = training_state.StateCopies(str(tmp_path / "store"), "run/train-1.resume", notes.append)
    copies.send(tmp_path / "gone.resume")  # a step that ends removes its state
    assert copies.settle(10)
    assert (notes, list((tmp_path / "store").rglob("*"))) == ([], [])


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_told_to_stop_a_step_keeps_its_state_at_once_and_goes_on_from_there(undisturbed, step, store,
                                                                                    monkeypatch):
    monkeypatch.setenv(training_state.EVERY_VARIABLE, "3600")
    with pytest.raises(Cancelled, match=r"^train: was told to stop: "):
        step(during=lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == 4 else None)
    assert step.trained == [0, 1, 2, 3, 4]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    step.lose_disk()
    assert step() == undisturbed
    assert step.trained[0] == 5


def test_a_store_that_is_slow_or_dead_stops_no_training(undisturbed, step, between, monkeypatch):  # noqa: F811
    monkeypatch.setenv(training_state.STORE_VARIABLE, "s3://models/state")
    trained = threading.Event()
    between.trouble = lambda method, path, headers: trained.wait(30) and None if method == "PUT" else None
    assert step(during=lambda now: trained.set() if now == STEPS - 1 else None) == undisturbed, "slow"
    assert len([1 for method, *_ in between.seen if method == "PUT"]) <= 2, "of those that waited only the newest"
    assert not step.notes
    between.trouble = lambda *_: "refused"
    for left in step.workspace.results.glob("train-*-*"):
        left.rename(step.folder / f"{left.name} again")
    assert step() == undisturbed, "dead"
    assert any("state was not kept in s3://models/state" in note and "training goes on" in note for note in step.notes)


@pytest.mark.parametrize(("variable", "value"), [
    (training_state.EVERY_VARIABLE, "often"), (training_state.EVERY_VARIABLE, "-1"),
    (training_state.STORE_VARIABLE, "here"), (training_state.STORE_VARIABLE, "s3://bucket")])
def test_what_cannot_be_a_store_or_an_interval_is_said(workspace, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match=variable):
        training_state.settings(workspace)

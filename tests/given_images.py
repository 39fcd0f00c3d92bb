"""What the tests of evaluating share whose models are asked about given images: the room's inputs, and a judge of them."""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from expunge.contracts import (
    Candidate,
    Checkpoint,
    ClassifierSource,
    Compute,
    DataSource,
    Forget,
    Interface,
    ParentSource,
    Report,
    Request,
    Sampling,
    StoredFile,
    read_record,
    write_record,
)
from expunge.digests import sha256_file
from expunge.measure.policy import decide, preset

NOTHING = "0" * 64
FACTORY = """
from torch import nn

def build(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
"""


@functools.cache
def judge(digits: Callable[[], Any]) -> Any:
    """A classifier of digits [N, 1, 8, 8]: its weights."""
    import torch
    from torch.nn import functional as F

    from expunge.models.adam import Adam

    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    model, (x, y) = space["build"](), digits()
    optimizer = Adam(model.parameters(), 3e-3)
    for rows in torch.randperm(len(y) * 15, generator=torch.Generator().manual_seed(0)).remainder(len(y)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


@dataclass(frozen=True)
class Split:
    """Rows of the digits: what training could read, and what it could not."""

    forget: Any
    retain: Any
    holdout: Any


class RoomOfImages(ABC):
    """The room's inputs, in a house of their own. A family says what it makes of them."""

    family: str
    method: str
    claim: str
    digits: Callable[[], Any]
    split: Callable[[], Split]

    def __init__(self, house: Any) -> None:
        self.house = house
        self.ask()
        self.put_models()
        self.put_judge()
        for role in ("forget", "retain", "holdout"):
            self.give(role, getattr(self.split(), role))
        for name in ("oracle", "reference", "members", "extractor", "origin"):
            house.leave_out(name)

    @property
    @abstractmethod
    def source(self) -> dict[str, Any]:
        """What the request says of the checkpoint, beside its address and its family."""

    @abstractmethod
    def ask(self, **more: Any) -> None:
        """Writes a request; a family has its own idea of what it asks if it is not told."""

    @abstractmethod
    def put_models(self) -> None:
        """Puts the parent and a candidate that forgot."""

    def write(self, forget: Forget, sampling: Sampling, **more: Any) -> None:
        """Writes the request."""
        data = DataSource(uri="file:///digits")
        write_record(self.house.root / "request.json", Request(
            id="forget-8", requester="ann", reason="safety", model="digits", forget=forget, sampling=sampling,
            checkpoint=ParentSource(uri="file:///model", family=self.family, **self.source),
            judge=ClassifierSource(uri="file:///judge"), training=data, holdout=data, threads=1, **more))

    def give(self, role: str, rows: Any) -> None:
        """Some of the digits as one of the sets."""
        images, labels = self.digits()
        self.house.with_images(role, images.numpy()[rows], labels.numpy()[rows])

    def put_model(self, name: str, state: Any, architecture: str, config: dict[str, Any], interface: Interface) -> None:
        """A model of the family as checkpoint, candidate, reference ..., with its record."""
        from expunge import models

        folder = self.house.root / name
        folder.mkdir(exist_ok=True)
        models.save(folder / "model.safetensors", state,
                    models.ModelSpec(architecture=architecture, config=config, family=self.family))
        stored = {"family": self.family, "architecture": architecture, "config": config, "interface": interface,
                  "weights": StoredFile.of(folder / "model.safetensors")}
        if name == "candidate":
            write_record(folder, Candidate(
                method=self.method, claim=self.claim, params={}, seed=0, adaptation_sha256=NOTHING,
                oracle_sha256=None, parent_sha256=sha256_file(self.house.root / "checkpoint" / "model.safetensors"),
                compute=Compute(device="cpu", threads=1, torch="t", instruction_set="i", machine="m"), **stored))
        else:
            role = {"checkpoint": "parent"}.get(name, name)
            write_record(folder, Checkpoint(role=role, request_sha256=NOTHING, uri="file:///m", **stored))

    def put_judge(self, state: Any = None) -> None:
        """The classifier that only evaluation sees; its own weights unless others are given."""
        from expunge import models

        folder = self.house.root / "judge"
        (folder / "net.py").write_text(FACTORY)
        models.save(folder / "model.safetensors", state or judge(self.digits),
                    models.ModelSpec(architecture="net.py:build", config={}, family="classifier"))
        write_record(folder, Checkpoint(
            role="judge", request_sha256=NOTHING, uri="file:///j", family="classifier", architecture="net.py:build", config={},
            weights=StoredFile.of(folder / "model.safetensors"), factory=StoredFile.of(folder / "net.py")))

    def report(self, name: str) -> Report:
        """What the room reports; `folder` is then where."""
        self.folder = self.house.run(name)
        return read_record(Report, self.folder)


def judged(report: Report, policy: str = "standard") -> tuple[Any, dict[Any, Any]]:
    """The verdict of a policy, and its rules by metric and side."""
    verdict = decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)
    return verdict, {(rule.rule.metric, rule.rule.side): rule for rule in verdict.rules}


def columns(file: Any) -> dict[str, Any]:
    """A Parquet file's columns as arrays."""
    read = pq.read_table(file)
    return {column: read[column].to_numpy() for column in read.column_names}

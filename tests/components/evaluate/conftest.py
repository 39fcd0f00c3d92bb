"""A workspace with real built-in models, a request, and a candidate that forgets one digit as an output would."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from expunge.assets import digits
from expunge.assets import path as asset
from expunge.contracts import (
    Absent,
    Candidate,
    Checkpoint,
    ClassifierSource,
    Compute,
    DataSource,
    Forget,
    ParentSource,
    Request,
    Sampling,
    StoredFile,
    write_record,
)
from expunge.digests import sha256_file
from expunge.samples import NewSampleSet, RequestKey, SampleTable, write_sample_sets
from expunge.settings import Workspace
from pipelines.workspace import initialise

D = "0" * 64
DIGIT = 8


@dataclass
class House:
    """Inputs of `evaluate`, by name, in one folder."""

    root: Path
    workspace: Workspace
    forgetful: dict | None = None
    policy: str = "standard"

    def write_request(self, *, reason="safety", evaluate=600, classes=(DIGIT,), earlier=(), came_before=(),
                      sequential=False, search=80, lessons=0):
        builtin = "builtin://digits/dcgan"
        write_record(
            self.root / "request.json",
            Request(
                id="forget-8",
                requester="ann",
                reason=reason,
                model="digits",
                checkpoint=ParentSource(uri=builtin),
                forget=Forget(classes=classes, earlier=earlier),
                came_before=came_before,
                oracle=ClassifierSource(uri=builtin),
                judge=ClassifierSource(uri=builtin),
                holdout=DataSource(uri=builtin),
                sampling=Sampling(evaluate=evaluate, sequential=sequential, search=search, lessons=lessons),
                threads=1,
            ),
        )
        return self.root / "request.json"

    def write_model(self, name, role, family, state=None, spec=None):
        from expunge import models

        source = {"judge": "judge", "oracle": "oracle", "extractor": "oracle", "reference": "never-saw-8"}.get(role, "dcgan")
        loaded, built_in = models.read(asset(source))
        spec = spec or built_in
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        models.save(folder / "model.safetensors", state or loaded, spec)
        common = {
            "family": family,
            "architecture": spec.architecture,
            "config": dict(spec.config),
            "weights": StoredFile.of(folder / "model.safetensors"),
        }
        if role == "candidate":
            record = Candidate(
                method="m",
                claim="approximate removal",
                params={},
                seed=0,
                adaptation_sha256=D,
                oracle_sha256=D,
                parent_sha256=sha256_file(self.root / "checkpoint" / "model.safetensors"),
                negative_id=D,
                positive_id=D,
                compute=Compute(device="cpu", threads=1, torch="t", instruction_set="i", machine="m"),
                **common,
            )
        else:
            record = Checkpoint(role=role, request_sha256=D, uri="builtin://", **common)
        write_record(folder, record)
        return folder

    def inputs(self):
        return {
            name: self.root / (f"{name}.json" if name == "request" else name)
            for name in ("request", "checkpoint", "candidate", "oracle", "judge", "extractor", "reference", "origin",
                         "forget", "retain", "holdout", "members")
        } | {"policy": self.workspace.policies / f"{self.policy}.yaml"}

    def beside(self, name):
        """A house of its own beside this one: the same records and models, changed without changing these."""
        root = self.root / "beside" / name
        shutil.copytree(self.root, root, ignore=lambda folder, entries: [
            entry for entry in entries if Path(folder) == self.root and entry not in self.named])
        return replace(self, root=root)

    @property
    def named(self):
        """What lies in the folder of the room's inputs."""
        return {file.name for file in self.inputs().values() if file.parent == self.root}

    def with_candidate(self, state):
        self.write_model("candidate", "candidate", "gan", state)

    def with_reference(self, state=None, spec=None):
        """A model that never knew: the one that ships, unless told otherwise."""
        self.write_model("reference", "reference", "gan", state, spec)

    def with_origin(self, state=None, spec=None):
        """The first model of the chain: the built-in one, unless told otherwise."""
        self.write_model("origin", "origin", "gan", state, spec)

    def with_parent(self, state):
        """Another parent than the built-in one, such as what an earlier request left."""
        self.write_model("checkpoint", "parent", "gan", state)

    def with_extractor(self, state=None, spec=None):
        """Distances in the features of another classifier: the oracle's, unless told otherwise."""
        self.write_model("extractor", "extractor", "classifier", state, spec)

    def with_images(self, role, images, labels):
        """Real images in place of the held-out ones, or the members."""
        with self._own_workspace():
            (made,) = write_sample_sets(
                self.workspace, RequestKey.load_or_create(self.workspace, "forget-8"), _request(self.root / "request.json"),
                sha256_file(self.root / "request.json"),
                [NewSampleSet(role, SampleTable(images, labels), {}, (DIGIT,))])
        (self.root / role).mkdir(exist_ok=True)
        write_record(self.root / role, made)

    @contextmanager
    def _own_workspace(self):
        """In its own scope: fixtures around single tests have a workspace of their own in mind."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EXPUNGE_WORKSPACE", str(self.workspace.root))
            patch.setenv("EXPUNGE_KEYS", str(self.workspace.root.with_name("keys")))
            patch.delenv("EXPUNGE_RUN", raising=False)
            yield

    def leave_out(self, name):
        """Says that the request names no such thing."""
        (self.root / name).mkdir(exist_ok=True)
        write_record(self.root / name, Absent(reason=f"the request names no {name}"))

    def run(self, out="report"):
        from components.evaluate.step import evaluate

        with self._own_workspace():
            evaluate(**self.inputs(), report=self.root / out, statement=self.root / f"{out}.statement.json")
        return self.root / out


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_WORKSPACE", str(root / "workspace"))
        patch.setenv("EXPUNGE_KEYS", str(root / "keys"))
        patch.delenv("EXPUNGE_RUN", raising=False)
        workspace = initialise(Workspace.locate())

        made = House(root, workspace)
        made.write_request()
        made.with_images("holdout", *digits("holdout"))
        made.write_model("checkpoint", "parent", "gan")
        made.write_model("judge", "judge", "classifier")
        made.write_model("oracle", "oracle", "classifier")
        for name in ("extractor", "reference", "origin", "forget", "retain", "members"):
            made.leave_out(name)
        made.forgetful = forgetful()
        made.write_model("candidate", "candidate", "gan", state=made.forgetful)
    return made  # outside of the patch: a session lasts longer than this fixture's tests


def _request(file):
    from expunge.contracts import read_record

    return read_record(Request, file)


def forgetful(steps=60, seed=1):
    """Weights that draw much less of the digit: a few steps away from the judge's own opinion, for tests only."""
    import torch

    from expunge import models
    from expunge.models.adam import Adam

    torch.set_num_threads(1)
    gan, judge = models.load(asset("dcgan")), models.load(asset("judge"))
    parent = models.load(asset("dcgan"))
    latents = torch.Generator().manual_seed(seed)
    optimizer = Adam(gan.generator.parameters(), 1e-3, betas=(0.0, 0.99))
    for _ in range(steps):
        z = gan.draw_latents(48, latents)
        with torch.no_grad():
            was = parent(z)
            keep = judge(was).argmax(1) != DIGIT
        images = gan(z)
        loss = judge(images).softmax(1)[:, DIGIT].mean() * 3 + 20 * ((images - was)[keep] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gan.state_dict()

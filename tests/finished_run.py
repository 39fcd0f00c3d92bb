"""A finished run without any learning, for tests of evidence, gate, deploy and stores."""


class FinishedRun:
    """A tiny run with real statements, decisions and ledger; only the models and the measuring are made up."""

    def __init__(self, workspace, name="forget-8.1", parent=b"parent", weights=b"weights without eights",
                 request_id="forget-8", model="digits", residual=0.001, classes=(8,)):
        from expunge.contracts import ClassifierSource, DataSource, Forget, ParentSource, Request, write_record
        from expunge.digests import sha256_bytes, write_atomically

        self.workspace, self.name = workspace, name
        self.weights, self.parent_sha256 = weights, sha256_bytes(parent)
        self.residual = residual
        self.request_file = workspace.runs / name / "request.json"
        self.policy_file = workspace.runs / name / "policy.yaml"
        write_atomically(self.policy_file, (workspace.policies / "debug.yaml").read_bytes())
        self.request = Request(
            id=request_id, requester="ada", reason="safety", model=model, policy="debug",
            checkpoint=ParentSource(uri="builtin:digits"), oracle=ClassifierSource(uri="builtin:oracle"),
            judge=ClassifierSource(uri="builtin:judge"), holdout=DataSource(uri="builtin:holdout"),
            forget=Forget(classes=classes))
        write_record(self.request_file, self.request)
        self.statements, self.results = {}, {}
        self.outputs, self.shares = workspace.root.parent / f"outputs-{name}", {}

    def write_tables(self, folder):
        """The report's files."""
        (folder / "scores.csv").write_text("1,2,3\n")
        (folder / "features.safetensors").write_bytes(b"of nobody")

    def measurements(self, made_up):
        """What the report says was measured."""
        return made_up

    def enter(self, step, **given):
        """Enters a room as a step of this run, and its statement in the ledger."""
        from expunge.evidence.ledger import Ledger

        name = step.__name__
        kept = step(**given, statement=self.outputs / name / "statement.json")
        Ledger.open(self.workspace).append((kept.folder / "statement.json").read_bytes())
        self.results[name] = kept.folder.relative_to(self.workspace.root).as_posix()
        self.statements[name] = (kept.folder / "statement.json").read_bytes()
        return kept

    def make(self):
        """Candidate and report."""
        from expunge.contracts import (
            Candidate,
            Compute,
            Control,
            Interval,
            Measurement,
            Report,
            StoredFile,
            write_record,
        )
        from expunge.digests import sha256_bytes, sha256_file
        from expunge.room import room

        run = self

        @room(outputs=("candidate",))
        def unlearn(entered, *, request, candidate):
            (candidate / "model.safetensors").write_bytes(run.weights)
            write_record(candidate, Candidate(
                method=run.request.method.name, claim="approximate removal", params={}, seed=0,
                parent_sha256=run.parent_sha256, adaptation_sha256="1" * 64, oracle_sha256=None,
                negative_id="2" * 64, positive_id="3" * 64, family="gan", architecture="dcgan", config={},
                compute=Compute(device="cpu", threads=2, torch="2", instruction_set="x", machine="y"),
                weights=StoredFile.of(candidate / "model.safetensors")))

        def measured(residual, pul):
            return (
                Measurement(name="residual_rate", estimate=residual, n=1000, interval=Interval(
                    lower=residual / 2, upper=residual * 2, confidence=0.95, method="bootstrap")),
                Measurement(name="pul", estimate=pul, n=1000, interval=Interval(
                    lower=pul * 0.9, upper=min(1.0, pul * 1.1), confidence=0.95, method="bootstrap")))

        @room(outputs=("report",))
        def evaluate(entered, *, request, candidate, report):
            run.write_tables(report)
            weights, asked = sha256_file(candidate / "model.safetensors"), sha256_file(request)
            write_record(report, Report(
                request_sha256=asked, parent_sha256=run.parent_sha256, candidate_sha256=weights,
                judge_sha256="4" * 64, holdout_id="5" * 64, unwanted=run.request.forget.classes,
                latent_seed=sha256_bytes(bytes.fromhex(weights) + bytes.fromhex(asked)),
                measurements=run.measurements(measured(run.residual, 0.98)), shares=run.shares, controls=(
                    Control(name="the parent", must="FAIL", measurements=measured(0.5, 0.01),
                            covers=("residual_rate", "pul")),
                    Control(name="real images", must="not FAIL", measurements=measured(0.001, 0.98),
                            covers=("residual_rate",))),
                files=tuple(StoredFile.of(file) for file in sorted(report.iterdir()))))

        self.candidate, self.report = self.outputs / "candidate", self.outputs / "report"
        self.enter(unlearn, request=self.request_file, candidate=self.candidate)
        self.enter(evaluate, request=self.request_file, candidate=self.candidate, report=self.report)
        return self

    @property
    def evidence(self):
        """What gate and deploy are given."""
        return {"request": self.request_file, "candidate": self.candidate, "report": self.report,
                "policy": self.policy_file}

    def sign(self, person="grace", decision="approve", reason="the grids are clean", **more):
        """A person's decision; the person gets a reviewer's key first, if need be."""
        from tests_support import key_for

        from expunge.evidence import decisions
        from expunge.evidence.ledger import Ledger

        key_for(self.workspace, person, "reviewer")
        file = decisions.decide(self.workspace, self.name, person, decision, decisions.Subject.of(**self.evidence),
                                reason, more.pop("valid_days", 1), requester=self.request.requester, **more)
        Ledger.open(self.workspace).append(file.read_bytes())
        return file

    def gate(self):
        """Enters the real gate; returns its token."""
        from components.gate.step import gate

        self.verdict = self.outputs / "verdict"
        self.enter(gate, **self.evidence, verdict=self.verdict)
        return (self.verdict / "token.txt").read_text()

    def deploy(self):
        """Enters the real deploy; returns the release."""
        from components.deploy.step import deploy
        from expunge.contracts import Release, read_record

        self.enter(deploy, **self.evidence, verdict=self.verdict, release=self.outputs / "release")
        return read_record(Release, self.outputs / "release")

    def as_run(self, state):
        """The run as the command line knows it, in a state that it has come to."""
        from expunge.digests import sha256_file
        from expunge.evidence import states
        from expunge.evidence.database import Database
        from expunge.runs import RoomState, Run, RunState

        run = Run(self.workspace, self.name)
        began = RunState(run=self.name, request_id=self.request.id, request_sha256=sha256_file(self.request_file),
                         attempt=1, state="running", started_at="2026-01-01T00:00:00+00:00", rooms={
                             room: RoomState(result=folder, seconds=0.1, reused=False)
                             for room, folder in self.results.items()})
        with Database(self.workspace).ready().writing() as connection:
            states.begin(connection, self.name, began.record)
        run.write(run.state().model_copy(update={"state": state}))
        return run

    def conclude(self, state="released"):
        """Signs what the run came to."""
        from expunge.digests import sha256_bytes, sha256_file
        from expunge.evidence.keys import OPERATOR, SigningKey
        from expunge.evidence.ledger import Ledger
        from expunge.evidence.statements import RoomUse, RunPredicate, Statement, sign_statement

        said = RunPredicate(
            run=self.name, request_id=self.request.id, request_sha256=sha256_file(self.request_file), state=state,
            rooms={room: RoomUse(statement_sha256=sha256_bytes(envelope), reused=False)
                   for room, envelope in self.statements.items()})
        key = SigningKey.load(self.workspace, OPERATOR)
        Ledger.open(self.workspace).append(sign_statement(Statement.over({}, said), key))
        return self

    def release(self):
        """The whole of it: made, signed, through the gate, released, concluded."""
        self.make().sign()
        assert self.gate() == "open"
        self.released = self.deploy()
        self.conclude()
        return self

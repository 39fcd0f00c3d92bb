"""How keys come and go: what the ledger says of it, what it is worth, and what a kill leaves behind."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.digests import canonical_json, sha256_bytes, write_atomically
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Refused, WorkspaceBusy
from expunge.evidence import key_changes
from expunge.evidence.key_changes import NOT_RECORDED, place_of, revoke, rotate
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey, change_file, create_key, private_key_file
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, KeyringPredicate, Statement, open_statement, sign_statement
from expunge.evidence.verify import verify_workspace
from expunge.room import exclusive, verify_result


def said(key, reason="done"):
    return sign_statement(Statement.over({}, DisposalPredicate(
        request_id="r", request_sha256="a" * 64, reason=reason, by="operator", at="now")), key)


def enter(workspace, envelope):
    return Ledger.open(workspace).append(envelope)


def wrong(workspace):
    return {found.object: found.message for found in verify_workspace(workspace) if not found.ok}


def notes(workspace):
    return {found.object: found.message for found in verify_workspace(workspace) if found.ok and found.message}


def changes(workspace):
    keyring = Keyring.load(workspace)
    opened = [open_statement(entry.envelope, keyring.at(entry.position)) for entry in Ledger.open(workspace).entries()]
    return [(found.predicate, signer.person) for found, signer in opened if isinstance(found.predicate, KeyringPredicate)]


def counts(workspace, envelope):
    try:
        open_statement(envelope, Keyring.load(workspace).at(place_of(workspace, envelope)))
    except DoesNotVerify as error:
        return error.problem
    return True


def rewrite(workspace, change):
    data = json.loads(workspace.keyring.read_bytes())
    change(data["entries"])
    workspace.keyring.write_bytes(canonical_json(data))


# ------------------------------------------------------------------------------------------ who may


def test_a_new_workspace_has_the_operators_key_alone_and_needs_no_statement_for_it(workspace):
    assert Ledger.open(workspace).size == 0
    assert Keyring.load(workspace).people() == (OPERATOR,)
    assert wrong(workspace) == {}
    assert "keyring.json" not in notes(workspace)


def test_every_change_is_a_statement_that_names_the_new_keyring(workspace):
    create_key(workspace, "grace", ["reviewer"])
    create_key(workspace, "olga", ["admin"], reason="she runs the place")
    rotate(workspace, "grace", by="olga", reason="every year")
    revoke(workspace, "grace", by="olga", reason="left")
    told = [(one.change, one.person, one.by, signer, one.reason) for one, signer in changes(workspace)]
    assert told == [("entered", "grace", OPERATOR, OPERATOR, ""),
                    ("entered", "olga", OPERATOR, OPERATOR, "she runs the place"),
                    ("rotated", "grace", "olga", "olga", "every year"), ("revoked", "grace", "olga", "olga", "left")]
    last = open_statement(Ledger.open(workspace).entry(3).envelope, Keyring.load(workspace))[0]
    assert last.subjects == {"keyring.json": sha256_bytes(workspace.keyring.read_bytes())}
    assert wrong(workspace) == {}


def test_once_there_is_an_admin_only_an_admin_changes_the_keyring(workspace):
    create_key(workspace, "olga", ["admin"])
    create_key(workspace, "grace", ["reviewer"], by="olga")
    with pytest.raises(BadInput, match="has an admin, so only an admin may change it: say --as olga"):
        create_key(workspace, "linus", ["reviewer"])
    for act in (lambda: create_key(workspace, "linus", ["reviewer"], by="grace"),
                lambda: revoke(workspace, "grace", by=OPERATOR, reason="x"),
                lambda: rotate(workspace, "grace", by="grace")):
        with pytest.raises(Refused, match=r"keys: (grace is reviewer|operator is operator), not admin: say --as olga"):
            act()
    assert Keyring.load(workspace).people() == ("grace", "olga", "operator")


def test_as_long_as_nobody_is_admin_the_operator_signs_and_nobody_else(workspace):
    create_key(workspace, "grace", ["reviewer"])
    with pytest.raises(Refused, match="only the operator's key may: leave --as out"):
        create_key(workspace, "linus", ["reviewer"], by="grace")


def test_the_last_admin_stays_and_so_does_the_operator(workspace):
    create_key(workspace, "olga", ["admin"])
    with pytest.raises(Refused, match="olga is the last admin"):
        revoke(workspace, "olga", by="olga", reason="x")
    with pytest.raises(Refused, match="without operator's key nothing could be signed"):
        revoke(workspace, OPERATOR, by="olga", reason="x")
    create_key(workspace, "peter", ["admin"], by="olga")
    revoke(workspace, "olga", by="peter", reason="left")
    with pytest.raises(Refused, match="peter is the last admin"):
        revoke(workspace, "peter", by="peter", reason="x")
    with pytest.raises(Refused, match=r"olga's key .* was revoked"):
        create_key(workspace, "linus", ["reviewer"], by="olga")
    assert wrong(workspace) == {}


def test_what_is_meant_has_to_be_one_key_that_counts(workspace):
    entry = create_key(workspace, "grace", ["reviewer"])
    with pytest.raises(BadInput, match="linus has no key that counts"):
        revoke(workspace, "linus", reason="x")
    with pytest.raises(BadInput, match="needs a reason"):
        revoke(workspace, "grace", reason=" ")
    revoke(workspace, entry.key_id[:12], reason="x")
    with pytest.raises(BadInput, match="grace has no key that counts"):
        rotate(workspace, "grace")


# ------------------------------------------------------------------------------------------ what it is worth


def test_a_revoked_key_counts_for_what_was_entered_before_and_for_nothing_else(workspace):
    create_key(workspace, "mary", ["operator"])
    key = SigningKey.load(workspace, "mary")
    entered, kept_back = said(key, "entered"), said(key, "kept back")
    enter(workspace, entered)
    ended = revoke(workspace, "mary", reason="stolen laptop")
    assert counts(workspace, entered) is True
    problem = f"mary's key {key.key_id[:12]} was revoked (stolen laptop) and does not count from ledger position "
    assert counts(workspace, kept_back) == f"{problem}{ended.valid_until} on"
    assert wrong(workspace) == {}
    place = enter(workspace, kept_back)
    assert place == ended.valid_until
    assert counts(workspace, kept_back) == f"{problem}{place} on"
    assert wrong(workspace) == {f"ledger entry {place}": f"{problem}{place} on"}


def test_a_key_does_not_count_before_it_was_entered(workspace):
    key = key_changes.make_private(workspace, "mary", Keyring.load(workspace))
    early = said(key)
    enter(workspace, early)
    entry = create_key(workspace, "mary", ["operator"])
    assert entry.key_id == key.key_id
    assert counts(workspace, early) == f"mary's key {key.key_id[:12]} counts from ledger position 2 on"
    assert "ledger entry 0" in wrong(workspace)


def test_a_rotated_operator_goes_on_and_what_was_signed_before_still_verifies(workspace):
    before = said(SigningKey.load(workspace, OPERATOR))
    enter(workspace, before)
    old = Keyring.load(workspace).entries_of(OPERATOR)[0]
    new = rotate(workspace, OPERATOR, reason="once a year")
    assert SigningKey.load(workspace, OPERATOR).key_id == new.key_id != old.key_id
    enter(workspace, said(SigningKey.load(workspace, OPERATOR), "after"))
    assert counts(workspace, before) is True
    assert wrong(workspace) == {}
    rotate(workspace, OPERATOR)
    enter(workspace, said(SigningKey.load(workspace, OPERATOR), "after that"))
    assert wrong(workspace) == {}


def test_a_checkpoint_by_the_operators_earlier_key_counts_only_for_its_time(workspace):
    from expunge.evidence.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint

    old = SigningKey.load(workspace, OPERATOR)
    new = rotate(workspace, OPERATOR)
    keyring = Keyring.load(workspace)
    for size, ok in ((0, True), (1, True), (2, False), (9, False)):
        note = sign_checkpoint(Checkpoint(origin="urn:log", size=size, root="c" * 64), old)
        if ok:
            assert open_checkpoint(note, keyring)[1].key_id == old.key_id
        else:
            with pytest.raises(DoesNotVerify, match=r"the checkpoint does not count: operator's key .* was rotated"):
                open_checkpoint(note, keyring)
    note = sign_checkpoint(Checkpoint(origin="urn:log", size=0, root="c" * 64), SigningKey.load(workspace, OPERATOR))
    with pytest.raises(DoesNotVerify, match=f"counts from ledger position {new.valid_from} on"):
        open_checkpoint(note, keyring)


def test_the_operators_key_is_not_rotated_under_a_run_at_work(workspace):
    with (exclusive(workspace.root / "supervisor.lock", "x", "y"),
          pytest.raises(WorkspaceBusy, match="a run works in")):
        rotate(workspace, OPERATOR)
    assert rotate(workspace, OPERATOR).counts_now


def test_a_lost_key_is_replaced_by_an_admin_and_what_it_signed_still_counts(workspace):
    create_key(workspace, "olga", ["admin"])
    create_key(workspace, "mary", ["operator"], by="olga")
    signed = said(SigningKey.load(workspace, "mary"))
    enter(workspace, signed)
    private_key_file(workspace, "mary").unlink()
    with pytest.raises(BadInput, match=r"mary has no private key .* expunge keys rotate mary --as ADMIN"):
        SigningKey.load(workspace, "mary")
    new = rotate(workspace, "mary", by="olga", reason="lost")
    assert SigningKey.load(workspace, "mary").key_id == new.key_id
    assert counts(workspace, signed) is True
    assert wrong(workspace) == {}


def test_a_lost_key_of_the_operator_is_replaced_by_an_admin_and_the_ledger_goes_on(workspace):
    create_key(workspace, "olga", ["admin"])
    signed = said(SigningKey.load(workspace, OPERATOR))
    enter(workspace, signed)
    private_key_file(workspace, OPERATOR).unlink()
    with pytest.raises(BadInput, match=r"operator has no private key .* expunge keys rotate operator --as ADMIN"):
        enter(workspace, b"another")
    with pytest.raises(BadInput, match="operator has no private key"):
        create_key(workspace, "grace", ["reviewer"], by="olga")
    rotate(workspace, OPERATOR, by="olga", reason="lost")
    enter(workspace, said(SigningKey.load(workspace, OPERATOR), "after"))
    create_key(workspace, "grace", ["reviewer"], by="olga")
    assert counts(workspace, signed) is True
    assert wrong(workspace) == {}


def test_a_private_key_is_never_overwritten_and_the_new_one_lies_beside_it(workspace):
    create_key(workspace, "grace", ["reviewer"])
    old = private_key_file(workspace, "grace")
    before = old.read_bytes()
    rotate(workspace, "grace")
    new = private_key_file(workspace, "grace")
    assert (old.parent, old.read_bytes()) == (new.parent, before)
    assert new != old
    assert new.stat().st_mode & 0o777 == 0o600
    revoke(workspace, "grace", reason="x")
    create_key(workspace, "grace", ["reviewer"])
    assert len(list(old.parent.glob("grace*.pem"))) == 3


def test_rotation_enters_what_the_old_key_signed_and_the_ledger_did_not_hold(begin_run):
    run = begin_run().make()
    workspace = run.workspace
    run.sign("grace")
    from expunge.evidence import decisions

    loose = decisions.decide(workspace, run.name, "grace", "approve", decisions.Subject.of(**run.evidence), "again", 1,
                             requester="ada")
    assert Ledger.open(workspace).position_of(loose.stem) is None
    ended = rotate(workspace, "grace")
    assert Ledger.open(workspace).position_of(loose.stem) < ended.valid_from - 1
    assert wrong(workspace) == {}


def test_a_result_that_the_operators_earlier_key_signs_now_is_not_used_again(begin_run):
    run = begin_run().make()
    workspace, old = run.workspace, SigningKey.load(run.workspace, OPERATOR)
    folder = workspace.root / run.results["unlearn"]
    said_then = open_statement((folder / "statement.json").read_bytes(), Keyring.load(workspace))[0]
    rotate(workspace, OPERATOR)
    verify_result(workspace, folder)
    moved = said_then.predicate.model_copy(update={"seconds": 1.0})
    (folder / "statement.json").unlink()
    (folder / "statement.json").write_bytes(sign_statement(Statement.over(said_then.subjects, moved), old))
    with pytest.raises(DoesNotVerify, match=r"operator's key [0-9a-f]+ was rotated and does not count"):
        verify_result(workspace, folder)


# ------------------------------------------------------------------------------------------ what is noticed


@pytest.mark.parametrize(("change", "named"), [
    (lambda entries: entries[1].update(roles=["reviewer", "admin"]), "keyring.json"),
    (lambda entries: entries[1].update(person="mallory"), "keyring.json"),
    (lambda entries: entries.append({**entries[1], "key_id": sha256_bytes(bytes(32)), "public_key": "00" * 32}),
     "keyring.json"),
    (lambda entries: entries.pop(), "keyring.json"),
    (lambda entries: [entries[1].pop(name, None) for name in ("valid_until", "ended", "ended_because")], "keyring.json"),
    (lambda entries: entries[1].update(valid_until=9), "keyring.json"),
    (lambda entries: entries[2].pop("valid_from"), "keyring.json"),
    (lambda entries: entries.reverse(), "keyring.json"),
])
def test_a_keyring_that_no_statement_made_is_named(workspace, change, named):
    create_key(workspace, "grace", ["reviewer"])
    rotate(workspace, "grace")
    assert wrong(workspace) == {}
    rewrite(workspace, change)
    assert named in wrong(workspace)


def test_an_earlier_keyring_put_back_is_named(workspace):
    create_key(workspace, "grace", ["reviewer"])
    earlier = workspace.keyring.read_bytes()
    revoke(workspace, "grace", reason="x")
    workspace.keyring.write_bytes(earlier)
    assert wrong(workspace)["keyring.json"] == "not the keyring that its last change made"


def test_a_change_by_somebody_who_could_not_is_named(workspace):
    create_key(workspace, "olga", ["admin"])
    keyring = Keyring.load(workspace)
    place = Ledger.open(workspace).size
    key = key_changes.make_private(workspace, "mallory", keyring)
    entry = key_changes._entry(key, "mallory", ("admin",), place)
    after = Keyring(entries=(*keyring.entries, entry)).to_bytes()
    forged = sign_statement(Statement.over({"keyring.json": sha256_bytes(after)}, KeyringPredicate(
        change="entered", person="mallory", roles=("admin",), key_id=key.key_id, position=place, by="operator",
        reason="", at="now")), SigningKey.load(workspace, OPERATOR))
    assert enter(workspace, forged) == place
    workspace.keyring.write_bytes(after)
    assert wrong(workspace) == {f"ledger entry {place}": "operator is operator, not admin"}


@pytest.mark.parametrize("told", [
    {"person": "grace"}, {"roles": ("admin",)}, {"change": "revoked"}, {"change": "rotated", "replaces": "f" * 64},
    {"key_id": "f" * 64}])
def test_a_change_that_tells_another_than_was_made_is_named(workspace, told):
    keyring = Keyring.load(workspace)
    key = key_changes.make_private(workspace, "mallory", keyring)
    after = Keyring(entries=(*keyring.entries, key_changes._entry(key, "mallory", ("reviewer",), 0))).to_bytes()
    enter(workspace, sign_statement(Statement.over({"keyring.json": sha256_bytes(after)}, KeyringPredicate(**{
        "change": "entered", "person": "mallory", "roles": ("reviewer",), "key_id": key.key_id, "position": 0,
        "by": "operator", "reason": "", "at": "now", **told})), SigningKey.load(workspace, OPERATOR)))
    workspace.keyring.write_bytes(after)
    assert wrong(workspace) == {"ledger entry 0": "it tells another change than was made"}


def test_a_keyring_from_before_changes_were_recorded_opens_and_says_so(workspace):
    entry = create_key(workspace, "grace", ["reviewer"])
    workspace.ledger.unlink()
    rewrite(workspace, lambda entries: [one.pop("valid_from", None) for one in entries])
    assert "valid" not in workspace.keyring.read_text()
    assert Keyring.load(workspace).by_id(entry.key_id).why_not_at(0) == ""
    Ledger.open(workspace)
    assert wrong(workspace) == {}
    assert notes(workspace)["keyring.json"] == f"1 of its keys: {NOT_RECORDED}"
    create_key(workspace, "olga", ["admin"])
    rotate(workspace, "grace", by="olga")
    assert wrong(workspace) == {}
    assert notes(workspace)["keyring.json"] == f"1 of its keys: {NOT_RECORDED}"
    rewrite(workspace, lambda entries: entries[1].update(roles=["admin"]))
    assert "keyring.json" in wrong(workspace)


# ------------------------------------------------------------------------------------------ kills and others


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("act", [
    lambda workspace: create_key(workspace, "linus", ["reviewer"]),
    lambda workspace: revoke(workspace, "grace", reason="x"),
    lambda workspace: rotate(workspace, "grace"),
    lambda workspace: rotate(workspace, OPERATOR)], ids=["new", "revoke", "rotate", "rotate the operator"])
@pytest.mark.parametrize("moment", ["private", "staged", "append", "entered", "written"])
def test_a_kill_between_any_two_writes_leaves_a_whole_change_or_none(workspace, monkeypatch, act, moment):
    create_key(workspace, "grace", ["reviewer"])
    before = workspace.keyring.read_bytes()

    def dying(*_, **__):
        raise _Killed

    real = Ledger.append
    with monkeypatch.context() as patch:
        if moment == "private":
            patch.setattr(key_changes, "sign_statement", dying)
        elif moment == "staged":
            patch.setattr(key_changes, "write_atomically", dying)
        elif moment == "append":
            patch.setattr(Ledger, "append", dying)
        elif moment == "entered":
            patch.setattr(Ledger, "append", lambda *given, **more: dying(real(*given, **more)))
        else:
            patch.setattr(key_changes, "_write",
                          lambda workspace, after: dying(write_atomically(workspace.keyring, after)))
        with pytest.raises(_Killed):
            act(workspace)
    entered = moment in ("entered", "written")
    assert len(changes(workspace)) == 1 + entered
    assert (Keyring.load(workspace).to_bytes() == before) == (not entered)
    enter(workspace, said(SigningKey.load(workspace, OPERATOR)))  # by the key that counts, whichever that is
    assert wrong(workspace) == {}
    create_key(workspace, "peter", ["reviewer"])
    assert wrong(workspace) == {}
    assert not change_file(workspace).exists()


def test_a_change_in_the_ledger_is_in_force_where_nothing_can_be_written(workspace, monkeypatch):
    create_key(workspace, "grace", ["reviewer"])
    with monkeypatch.context() as patch:
        patch.setattr(key_changes, "_write", lambda *_: (_ for _ in ()).throw(_Killed()))
        with pytest.raises(_Killed):
            revoke(workspace, "grace", reason="x")
    with monkeypatch.context() as patch:
        patch.setattr(key_changes, "_write", lambda *_: (_ for _ in ()).throw(PermissionError()))
        assert Keyring.load(workspace).holders("reviewer") == ()
    assert change_file(workspace).exists()
    assert Keyring.load(workspace).holders("reviewer") == ()
    assert not change_file(workspace).exists()


def test_a_change_that_lost_its_place_to_somebody_elses_entry_is_made_again(workspace, monkeypatch):
    key, real, left = SigningKey.load(workspace, OPERATOR), key_changes.sign_statement, [3]

    def while_others_write(*given):
        if left[0]:
            left[0] -= 1
            enter(workspace, said(key, f"number {left[0]}"))
        return real(*given)

    monkeypatch.setattr(key_changes, "sign_statement", while_others_write)
    entry = create_key(workspace, "grace", ["reviewer"])
    assert entry.valid_from == Ledger.open(workspace).size == 7
    assert [one.position for one, _ in changes(workspace)] == [0, 2, 4, 6]
    assert wrong(workspace) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["new", "revoke", "rotate", "entry"]),
                          st.sampled_from(["ann", "bob", OPERATOR]), st.sampled_from(["ann", "bob", None])), max_size=12))
def test_every_earlier_keyring_can_be_worked_out_from_the_last(tmp_path_factory, steps):
    from expunge.settings import Workspace
    from pipelines.workspace import initialise

    workspace = initialise(Workspace(tmp_path_factory.mktemp("keys") / "ws"))
    kept = {0: workspace.keyring.read_bytes()}
    for action, whose, by in steps:
        try:
            match action:
                case "new":
                    create_key(workspace, whose, ["admin"], by)
                case "revoke":
                    revoke(workspace, whose, by=by, reason="because")
                case "rotate":
                    rotate(workspace, whose, by=by)
                case _:
                    enter(workspace, said(SigningKey.load(workspace, OPERATOR), str(len(kept))))
        except ExpungeError:
            continue
        kept[Ledger.open(workspace).size] = workspace.keyring.read_bytes()
    last = Keyring.load(workspace)
    assert {size: last.as_of(size).to_bytes() for size in kept} == kept
    assert wrong(workspace) == {}

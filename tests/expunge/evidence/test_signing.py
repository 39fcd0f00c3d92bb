"""Keys, envelopes, checkpoints and statements: what is accepted, and that nothing else is."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.digests import canonical_json
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence.checkpoints import Checkpoint, key_hash, open_checkpoint, sign_checkpoint
from expunge.evidence.envelopes import open_envelope, pre_authentication_encoding, seal
from expunge.evidence.keys import (
    OPERATOR,
    Keyring,
    KeyringEntry,
    SigningKey,
    create_key,
    make_private,
    private_key_file,
)
from expunge.evidence.statements import (
    DisposalPredicate,
    RunPredicate,
    Statement,
    open_statement,
    sign_statement,
)
from expunge.settings import Workspace

SAID = DisposalPredicate(request_id="r", request_sha256="a" * 64, reason="done", by="operator", at="now")


@pytest.fixture
def key(workspace):
    return SigningKey.load(workspace, OPERATOR)


@pytest.fixture
def keyring(workspace):
    return Keyring.load(workspace)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """An operator's key, its keyring, and one of each kind of signed bytes."""
    workspace = Workspace(tmp_path_factory.mktemp("signed") / "ws")
    create_key(workspace, OPERATOR, ["operator"])
    key, keyring = SigningKey.load(workspace, OPERATOR), Keyring.load(workspace)
    return keyring, {
        "statement": (sign_statement(Statement.over({"a": "b" * 64}, SAID), key),
                      lambda data: open_statement(data, keyring)),
        "checkpoint": (sign_checkpoint(Checkpoint(origin="urn:log", size=7, root="c" * 64), key),
                       lambda data: open_checkpoint(data, keyring))}, key


@pytest.mark.parametrize("kind", ["statement", "checkpoint"])
def test_every_bit_of_what_is_signed_is_covered(signed, kind):
    whole, opening = signed[1][kind]
    opening(whole)
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            with pytest.raises(DoesNotVerify):
                opening(bytes(flipped))


@pytest.mark.parametrize("kind", ["statement", "checkpoint"])
def test_nothing_may_be_added_before_or_after(signed, kind):
    whole, opening = signed[1][kind]
    for changed in (whole + b"\n", b" " + whole, whole[:-1], b"", b"{}", b"[]", b"\xff", b"null"):
        with pytest.raises(DoesNotVerify):
            opening(changed)


def test_an_envelope_with_the_same_meaning_in_another_encoding_is_refused(key, keyring):
    envelope = seal(b"x", "t", key)
    document = json.loads(envelope)
    assert open_envelope(envelope, "t", keyring)[0] == b"x"
    unused_bits = document["payload"][:-3] + "f=="  # "eA==" and "ef==" both decode to "x"
    for again in (json.dumps(document).encode(), canonical_json(document | {"more": 1}),
                  canonical_json(document | {"payload": unused_bits}),
                  canonical_json(document | {"signatures": document["signatures"] * 2}),
                  canonical_json(document | {"signatures": [document["signatures"][0] | {"keyid": 5}]})):
        with pytest.raises(DoesNotVerify):
            open_envelope(again, "t", keyring)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.binary(max_size=20))
def test_an_envelope_is_rfc_8785_json_whatever_is_in_it(signed, kind, payload):
    key, keyring = signed[2], signed[0]
    envelope = seal(payload, kind, key)
    assert envelope == canonical_json(json.loads(envelope))
    assert open_envelope(envelope, kind, keyring)[0] == payload


def test_the_pre_authentication_encoding_is_the_one_that_dsse_publishes():
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, "Test Vectors" (Apache-2.0)
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")


def test_notes_verify_as_the_go_implementation_made_them():
    # https://pkg.go.dev/golang.org/x/mod/sumdb/note, the package's own example (BSD-3-Clause)
    public = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    text = ("If you think cryptography is the answer to your problem,\n"
            "then you don't know what your problem is.\n")
    signed = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=")
    assert key_hash("PeterNeumann", public) == signed[:4] == bytes.fromhex("c74f20a3")
    from expunge.digests import sha256_bytes
    entry = KeyringEntry(key_id=sha256_bytes(public), public_key=public.hex(), person="peter",
                         roles=("operator",), created_at="")
    assert entry.verifies(signed[4:], text.encode())


def test_an_envelope_of_another_type_or_by_an_unknown_key_is_refused(workspace, key, keyring):
    with pytest.raises(DoesNotVerify, match="holds t, not u"):
        open_envelope(seal(b"x", "t", key), "u", keyring)
    with pytest.raises(DoesNotVerify, match="in nobody's name"):
        open_envelope(seal(b"x", "t", key), "t", Keyring())


def test_a_statement_comes_back_as_it_went_in(key, keyring):
    statement = Statement.over({"b": "1" * 64, "a": "2" * 64}, SAID)
    found, entry = open_statement(sign_statement(statement, key), keyring)
    assert found == statement
    assert list(found.subjects) == ["a", "b"]
    assert entry.person == OPERATOR


def test_a_statement_is_in_toto_v1_in_dsse(key):
    envelope = json.loads(sign_statement(Statement.over({"a": "2" * 64}, SAID), key))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "a", "digest": {"sha256": "2" * 64}}]
    assert statement["predicateType"] == "urn:expunge:predicate:disposal:v1"


def test_a_statement_by_somebody_who_is_not_the_operator_does_not_count(workspace):
    create_key(workspace, "grace", ["reviewer"])
    envelope = sign_statement(Statement.over({}, SAID), SigningKey.load(workspace, "grace"))
    with pytest.raises(DoesNotVerify, match="grace, who is not operator"):
        open_statement(envelope, Keyring.load(workspace))


def test_a_checkpoint_by_somebody_who_is_not_the_operator_does_not_count(workspace):
    create_key(workspace, "grace", ["reviewer"])
    note = sign_checkpoint(Checkpoint(origin="urn:log", size=0, root="c" * 64), SigningKey.load(workspace, "grace"))
    with pytest.raises(DoesNotVerify, match="no operator"):
        open_checkpoint(note, Keyring.load(workspace))


def test_a_statement_of_another_kind_than_wanted_is_refused(key, keyring):
    with pytest.raises(DoesNotVerify, match="disposal"):
        open_statement(sign_statement(Statement.over({}, SAID), key), keyring, RunPredicate)


@pytest.mark.parametrize("payload", [
    b"", b"[]", b"{}", b"null", b'{"_type":"https://in-toto.io/Statement/v1","subject":[],'
    b'"predicateType":"urn:other","predicate":{}}'])
def test_a_signed_payload_that_is_no_statement_of_ours_is_refused(key, keyring, payload):
    with pytest.raises(DoesNotVerify):
        open_statement(seal(payload, "application/vnd.in-toto+json", key), keyring)


def test_a_private_key_is_for_its_owner_only_and_never_overwritten(workspace):
    entry = create_key(workspace, "grace", ["reviewer"])
    file = private_key_file(workspace, "grace")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    before = file.read_bytes()
    with pytest.raises(BadInput, match=f"grace already has {entry.key_id[:12]}"):
        create_key(workspace, "grace", ["admin"])
    assert file.read_bytes() == before
    assert workspace.root not in file.parents


def test_a_private_key_that_no_keyring_entry_knows_is_entered_rather_than_left(workspace, keyring):
    made = make_private(workspace, "grace", keyring)  # and there came the kill
    assert create_key(workspace, "grace", ["reviewer"]).key_id == made.key_id


def test_the_first_key_of_a_keyring_is_the_operators(workspace):
    workspace.keyring.unlink()
    with pytest.raises(BadInput, match="its first key is the operator's"):
        create_key(workspace, "grace", ["reviewer"])


@pytest.mark.parametrize("person", ["..", "~", "a:b", "Ünal", "x" * 254, "%2e", "-rf", "nul\0"])
def test_no_name_leads_out_of_the_key_folder(workspace, person):
    create_key(workspace, person, ["reviewer"])
    assert SigningKey.load(workspace, person).key_id == Keyring.load(workspace).entries_of(person)[0].key_id
    assert private_key_file(workspace, person).parent == workspace.keys / "people"


@pytest.mark.parametrize(("person", "roles", "complaint"), [
    ("a b", ["reviewer"], "person"), ("a/b", ["reviewer"], "person"), ("", ["reviewer"], "person"),
    ("grace", ["boss"], "role 'boss' is not known"), ("grace", [], "no role was given")])
def test_a_name_or_role_that_cannot_be_used_is_one_line(workspace, person, roles, complaint):
    with pytest.raises(BadInput, match=complaint):
        create_key(workspace, person, roles)


def test_somebody_without_a_key_is_told_how_to_get_one(workspace):
    with pytest.raises(BadInput, match="run 'expunge keys new nobody --role reviewer'"):
        SigningKey.load(workspace, "nobody")


def test_a_damaged_private_key_is_one_line(workspace):
    create_key(workspace, "grace", ["reviewer"])
    private_key_file(workspace, "grace").write_text("-----BEGIN")
    with pytest.raises(BadInput, match="not a readable Ed25519 private key"):
        SigningKey.load(workspace, "grace")


def test_a_keyring_whose_key_id_is_not_of_its_key_is_refused(workspace, keyring):
    data = json.loads(workspace.keyring.read_bytes())
    data["entries"][0]["key_id"] = "0" * 64
    workspace.keyring.write_bytes(canonical_json(data))
    with pytest.raises(BadInput, match="key_id is not the SHA-256 of public_key"):
        Keyring.load(workspace)

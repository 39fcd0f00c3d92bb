"""Who is let in behind a proxy, and with what they come."""

import secrets

import pytest
from console_served import Visitor, served, signed, waiting_runs

from expunge.configuration import ApiToken, Configuration, ConsoleSettings
from expunge.console.protection import Rate
from expunge.digests import sha256_bytes
from expunge.evidence.keys import Keyring
from expunge.runs import Run

OUTSIDE = "https://console.example.org"
TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return waiting_runs(tmp_path_factory.mktemp("identity"), ["only"])


def behind_a_proxy(*networks):
    return ConsoleSettings(address=OUTSIDE, proxies=networks, tokens=(ApiToken(person="linus", sha256=sha256_bytes(TOKEN.encode())),))


def as_named(address, *persons):
    """Somebody whom whatever stands before the console names."""
    visitor = Visitor(address)
    visitor.headers.update({"Host": "console.example.org", "Origin": OUTSIDE})
    if persons:
        visitor.headers["X-Forwarded-User"] = persons[0]
    return visitor


def test_a_trusted_proxy_names_people_and_each_hands_in_only_their_own_signature(workspace):
    with served(workspace, behind_a_proxy("127.0.0.0/8")) as (_, address):
        grace = as_named(address, "grace")
        known = grace.get("/api/v1/me")
        assert (known.json()["person"], known.json()["roles"]) == ("grace", ["reviewer"])
        assert "Strict-Transport-Security" in known.headers
        grace.headers["X-CSRF-Token"] = known.json()["csrf"]
        answer = grace.decide("only.1", signed(workspace, "only.1", "linus"))
        assert (answer.status_code, answer.json()["problem"]) == (403, "linus has signed this, and grace hands it in")
        stranger = as_named(address, "mallory")
        assert stranger.get("/").status_code == 403
        assert stranger.get("/key").status_code == 200  # how they come to have one
        assert as_named(address).get("/").status_code == 401
        assert as_named(address, "two people").get("/").status_code == 401
        linus = as_named(address, "linus")
        linus.headers["X-CSRF-Token"] = known.json()["csrf"]  # grace's
        assert linus.decide("only.1", signed(workspace, "only.1", "linus")).status_code == 403
        assert linus.get("/enter?token=").status_code == 403


def test_a_forged_header_from_elsewhere_is_nobodys_and_an_api_token_is_somebodys(workspace):
    with served(workspace, behind_a_proxy("10.1.2.0/24")) as (_, address):
        assert as_named(address, "grace").get("/api/v1/me").status_code == 401
        forged = as_named(address, "grace")
        forged.headers["X-Forwarded-For"] = "10.1.2.3"
        assert forged.get("/api/v1/me").status_code == 401
        for shown in ("Bearer " + "0" * 64, "Basic " + TOKEN, "Bearer", "Bearer \xff"):
            assert as_named(address).get("/api/v1/me", headers={"Authorization": shown.encode("latin-1")}).status_code == 401
        program = as_named(address, "grace")  # a header beside it changes nothing
        program.headers.update({"Authorization": f"Bearer {TOKEN}", "Origin": "https://anywhere.example"})
        assert program.get("/api/v1/me").json()["person"] == "linus"
        assert program.decide("only.1", signed(workspace, "only.1", "linus")).status_code == 201
        assert Run(workspace, "only.1").state().state == "approved"


def test_who_asks_too_often_waits(workspace):
    with served(workspace, behind_a_proxy("10.1.2.0/24")) as (app, address):
        app.state.console.reads = Rate(in_a_row=3, per_second=0.001)
        program = as_named(address)
        program.headers["Authorization"] = f"Bearer {TOKEN}"
        answers = [program.get("/api/v1/me") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert "Retry-After" in answers[-1].headers
        app.state.console.strangers = Rate(in_a_row=2, per_second=0.001)
        assert [as_named(address).get("/").status_code for _ in range(3)] == [401, 401, 429]


@pytest.mark.parametrize(("written", "names"), [
    ("{address: https://console.example.org}", "name proxies, tokens or both"),
    ("{address: 'https://console.example.org/path', proxies: [10.0.0.0/8]}", "console.address"),
    ("{address: https://console.example.org, proxies: [everywhere]}", "console.proxies"),
    ("{address: https://console.example.org, tokens: [{person: ci, sha256: secret}]}", "sha256"),
])
def test_what_config_yaml_says_of_the_console_is_checked(workspace, written, names):
    from expunge.errors import BadInput

    file = workspace.root / "config.yaml"
    file.write_text(f"console: {written}\n")
    with pytest.raises(BadInput, match=names):
        Configuration.load(workspace)
    file.unlink()


def test_a_console_that_others_could_reach_has_to_be_told_how_it_knows_them(workspace):
    from expunge.console.serving import serve
    from expunge.errors import BadInput

    with pytest.raises(BadInput, match="can be reached by others"):
        serve(workspace, "0.0.0.0", 0, str, print)


def test_a_key_whose_private_part_never_was_here_is_entered_and_replaced(workspace):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from expunge.errors import BadInput
    from expunge.evidence import key_changes
    from expunge.evidence.verify import verify_workspace

    first, second = (Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex() for _ in range(2))
    assert key_changes.enter(workspace, "hopper", ("reviewer",), public_key=first).public_key == first
    assert key_changes.rotate(workspace, "hopper", public_key=second, reason="lost with a browser").public_key == second
    assert not list((workspace.keys / "people").glob("hopper*"))
    for wrong, why in ((first, "has been hopper's"), ("00", "is no Ed25519 key"), ("g" * 64, "is no Ed25519 key")):
        with pytest.raises(BadInput, match=why):
            key_changes.enter(workspace, "turing", ("reviewer",), public_key=wrong)
    with pytest.raises(BadInput, match="the operator's key"):
        key_changes.rotate(workspace, "operator", public_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex())
    assert [entry.counts_now for entry in Keyring.load(workspace).entries_of("hopper")] == [False, True]
    assert [finding for finding in verify_workspace(workspace) if not finding.ok] == []

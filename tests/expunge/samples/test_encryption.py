import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import BadInput, DoesNotVerify
from expunge.samples import RequestKey

KEY = RequestKey("r", bytes(range(32)))
PIECE = 1 << 20


@given(st.binary(max_size=200))
def test_what_was_sealed_opens_to_the_same_bytes(data):
    assert KEY.open(KEY.seal(data), "it") == data


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_pieces_meet_at_their_borders(size):
    data = os.urandom(size)
    assert KEY.open(KEY.seal(data), "it") == data


@given(data=st.binary(min_size=1, max_size=64), draw=st.data())
@settings(max_examples=200)
def test_any_flipped_bit_is_noticed(data, draw):
    sealed = bytearray(KEY.seal(data))
    at = draw.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(DoesNotVerify, match="it does not decrypt"):
        KEY.open(bytes(sealed), "it")


def test_a_file_cut_at_a_piece_does_not_open():
    sealed = KEY.seal(os.urandom(2 * PIECE))
    with pytest.raises(DoesNotVerify):
        KEY.open(sealed[: 15 + PIECE + 16], "it")


def test_pieces_cannot_change_places():
    sealed = KEY.seal(os.urandom(3 * PIECE))
    head, body, size = sealed[:15], sealed[15:], PIECE + 16
    with pytest.raises(DoesNotVerify):
        KEY.open(head + body[size : 2 * size] + body[:size] + body[2 * size :], "it")


def test_another_requests_key_opens_nothing_and_gives_other_digests():
    other = RequestKey("s", bytes(32))
    with pytest.raises(DoesNotVerify):
        other.open(KEY.seal(b"x"), "it")
    assert other.digest(b"x") != KEY.digest(b"x")


def test_a_digest_tells_where_its_parts_begin():
    assert KEY.digest(b"ab", b"c") != KEY.digest(b"a", b"bc")


def test_a_key_is_made_once_and_only_its_owner_reads_it(workspace):
    made = RequestKey.load_or_create(workspace, "r")
    assert RequestKey.load_or_create(workspace, "r") == made == RequestKey.load(workspace, "r")
    assert stat.S_IMODE(RequestKey.file(workspace, "r").stat().st_mode) == 0o600
    assert not RequestKey.file(workspace, "r").is_relative_to(workspace.root), "the key lies beside the data"


def test_a_missing_or_damaged_key_is_named(workspace):
    with pytest.raises(BadInput, match="key of request 'r' is not at"):
        RequestKey.load(workspace, "r")
    RequestKey.load_or_create(workspace, "r")
    RequestKey.file(workspace, "r").write_bytes(b"short")
    with pytest.raises(BadInput, match="has 32 bytes, this has 5"):
        RequestKey.load(workspace, "r")


def test_a_key_does_not_show_in_its_printed_form():
    assert "secret" not in repr(KEY)

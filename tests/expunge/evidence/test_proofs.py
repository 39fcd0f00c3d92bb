"""Inclusion and consistency proofs against published vectors and against themselves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.evidence.tree import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    levels_of,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# Leaves, roots and proofs of Certificate Transparency's RFC 6962 reference tree, as published in
# https://github.com/transparency-dev/merkle, proof/verify_test.go (Apache-2.0). There the leaves of inclusion
# proofs are counted from one.
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [bytes.fromhex(root) for root in (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")]
INCLUSION = [
    (1, 1, []),
    (1, 8, ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"]),
    (6, 8, ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"]),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (2, 5, ["6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"])]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"]),
    (6, 8, ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"]),
    (2, 5, ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"]),
    (6, 7, ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"])]

OTHER = bytes(32)
MANY = [leaf_hash(b"leaf %d" % number) for number in range(70)]
NODES = levels_of(MANY)


def lookup_in(leaves):
    levels = levels_of(leaves)
    return lambda level, position: levels[level][position]


def stored(level, position):
    return NODES[level][position]


@pytest.mark.parametrize(("leaf", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_published_vectors(leaf, size, proof):
    published = tuple(bytes.fromhex(found) for found in proof)
    assert inclusion_proof(leaf - 1, size, lookup_in(LEAVES)) == published
    assert verify_inclusion(LEAVES[leaf - 1], leaf - 1, size, published, ROOTS[size - 1])


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_published_vectors(first, second, proof):
    published = tuple(bytes.fromhex(found) for found in proof)
    assert consistency_proof(first, second, lookup_in(LEAVES)) == published
    assert verify_consistency(first, second, published, ROOTS[first - 1], ROOTS[second - 1])


def damaged(proof):
    """The proof with any one thing wrong: a byte, an element too many, too few or in another's place."""
    for number, found in enumerate(proof):
        for byte in (0, 17, 31):
            wrong = bytearray(found)
            wrong[byte] ^= 1
            yield (*proof[:number], bytes(wrong), *proof[number + 1:])
        yield proof[:number] + proof[number + 1:]
        yield (*proof[:number], found[:-1], *proof[number + 1:])
        yield (*proof[:number], b"", *proof[number:])
        yield (*proof[:number], OTHER, *proof[number:])
    yield (*proof, OTHER)
    yield (*proof, b"")
    if len(set(proof)) > 1:
        yield proof[::-1]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_leaf_is_shown_to_be_in_its_place_and_in_no_other(data):
    size = data.draw(st.integers(1, len(MANY)))
    position = data.draw(st.integers(0, size - 1))
    leaf, root, proof = MANY[position], root_of(MANY[:size]), inclusion_proof(position, size, stored)
    assert verify_inclusion(leaf, position, size, proof, root)
    assert not any(verify_inclusion(leaf, position, size, wrong, root) for wrong in damaged(proof))
    assert not verify_inclusion(leaf, position, size, proof, OTHER)
    assert not verify_inclusion(OTHER, position, size, proof, root)
    others = [other for other in range(-1, size + 2) if other != position]
    assert not any(verify_inclusion(leaf, other, size, proof, root) for other in others)
    for other in (found for found in range(len(MANY) + 1) if found != size):
        assert not verify_inclusion(leaf, position, other, proof, root_of(MANY[:other]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_tree_is_shown_to_begin_with_an_earlier_one_and_with_no_other(data):
    second = data.draw(st.integers(1, len(MANY)))
    first = data.draw(st.integers(0, second))
    roots = [root_of(MANY[:size]) for size in range(len(MANY) + 1)]
    proof = consistency_proof(first, second, stored)
    assert verify_consistency(first, second, proof, roots[first], roots[second])
    assert not any(verify_consistency(first, second, wrong, roots[first], roots[second]) for wrong in damaged(proof))
    assert not verify_consistency(first, second, proof, OTHER, roots[second])
    if first:  # every tree begins with the empty one
        assert not verify_consistency(first, second, proof, roots[first], OTHER)
    for other in range(1, second):
        if other != first:
            assert not verify_consistency(other, second, proof, roots[other], roots[second])
    for other in range(first + 1, len(MANY) + 1):
        if other != second and first:
            assert not verify_consistency(first, other, proof, roots[first], roots[other])
    if first < second:
        assert not verify_consistency(second, first, proof, roots[second], roots[first])


def test_a_forked_tree_begins_with_no_earlier_one():
    forked = [*MANY[:9], OTHER, *MANY[10:40]]
    proof = consistency_proof(20, 40, lookup_in(forked))
    assert not verify_consistency(20, 40, proof, root_of(MANY[:20]), root_of(forked))
    assert verify_consistency(20, 40, proof, root_of(forked[:20]), root_of(forked))


@pytest.mark.parametrize(("position", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(position, size):
    with pytest.raises(ValueError, match="has none"):
        inclusion_proof(position, size, stored)
    assert not verify_inclusion(EMPTY_ROOT, position, size, (), EMPTY_ROOT)


@pytest.mark.parametrize(("first", "size"), [(4, 3), (-1, 3)])
def test_there_is_no_proof_of_a_tree_that_shrinks(first, size):
    with pytest.raises(ValueError, match="begins with"):
        consistency_proof(first, size, stored)
    assert not verify_consistency(first, size, (), EMPTY_ROOT, EMPTY_ROOT)

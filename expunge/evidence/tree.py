"""The Merkle tree of RFC 6962 section 2.1 (unchanged in RFC 9162), over SHA-256.

Two independent ways to the root, checked against each other in the tests: `root_of` follows the RFC's
recursive definition and is what verification uses; `grown` and `root_of_edge` need only the right edge of
the tree, and are what makes an append cheap. The ledger keeps every complete subtree that `grown` yields, so
inclusion and consistency proofs are look-ups.
"""

import hashlib
from collections.abc import Iterator, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of a leaf: SHA-256 over 0x00 and the entry, so that no leaf passes for a node."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256 over 0x01 and both children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes from scratch, by the RFC's recursive definition."""

    def over(start: int, end: int) -> bytes:
        if end - start == 1:
            return leaves[start]
        split = start + (1 << (end - start - 1).bit_length() - 1)  # the largest power of two below the size
        return node_hash(over(start, split), over(split, end))

    return over(0, len(leaves)) if leaves else EMPTY_ROOT


def levels_of(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Every complete subtree over the leaf hashes, from scratch: one list of hashes for each level."""
    levels, current = [], list(leaves)
    while current:
        levels.append(current)
        pairs = range(0, len(current) - 1, 2)
        current = [node_hash(current[left], current[left + 1]) for left in pairs]
    return levels


def edge_of(size: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that make up a tree of `size` leaves, left to right, as (level, position)."""
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            yield level, (size >> level) - 1


def grown(size: int, edge: Sequence[bytes], leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The subtrees completed by `leaf` joining a tree of `size` leaves, as (level, position, hash).

    `edge` holds the hashes of `edge_of(size)`.
    """
    level, position, found, left = 0, size, leaf, list(edge)
    yield level, position, found
    while position & 1:
        level, position, found = level + 1, position >> 1, node_hash(left.pop(), found)
        yield level, position, found


def root_of_edge(edge: Sequence[bytes]) -> bytes:
    """The root of the tree whose `edge_of` hashes are given."""
    if not edge:
        return EMPTY_ROOT
    root = edge[-1]
    for left in reversed(edge[:-1]):
        root = node_hash(left, root)
    return root

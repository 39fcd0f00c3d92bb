"""The Merkle tree of RFC 6962 section 2.1 (unchanged in RFC 9162), over SHA-256.

Two independent ways to the root, checked against each other in the tests: `root_of` follows the RFC's
recursive definition and is what verification uses; `grown` and `root_of_edge` need only the right edge of
the tree, and are what makes an append cheap. The ledger keeps every complete subtree that `grown` yields, so
inclusion and consistency proofs are look-ups.

A proof holds for a root. Which size the root is of, the signed checkpoint says: a size that is only claimed beside
a proof is not bound by it (a leaf's path can have the same shape in trees of several sizes).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

Proof = tuple[bytes, ...]
Lookup = Callable[[int, int], bytes]  # the hash of the complete subtree at (level, position)

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
        split = _split(start, end)
        return node_hash(over(start, split), over(split, end))

    return over(0, len(leaves)) if leaves else EMPTY_ROOT


def _split(start: int, end: int) -> int:
    """Where the RFC divides these leaves: after the largest power of two that is smaller than their number."""
    return start + (1 << (end - start - 1).bit_length() - 1)


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


class Growing:
    """A tree to which leaves come one by one, kept as its right edge: as much memory as it is high."""

    def __init__(self, size: int = 0, edge: Sequence[bytes] = ()) -> None:
        self.size = size
        self._edge = list(edge)  # the hashes of `edge_of(size)`

    def add(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Takes in a leaf's hash; the subtrees that it completes, as (level, position, hash)."""
        completed = list(grown(self.size, self._edge, leaf))
        del self._edge[len(self._edge) - len(completed) + 1:]  # its last ones are in what is completed
        self._edge.append(completed[-1][2])
        self.size += 1
        return completed

    @property
    def edge(self) -> tuple[bytes, ...]:
        """The hashes of `edge_of(size)`."""
        return tuple(self._edge)

    @property
    def root(self) -> bytes:
        """The root over the leaves so far."""
        return root_of_edge(self._edge)


def root_of_edge(edge: Sequence[bytes]) -> bytes:
    """The root of the tree whose `edge_of` hashes are given."""
    if not edge:
        return EMPTY_ROOT
    root = edge[-1]
    for left in reversed(edge[:-1]):
        root = node_hash(left, root)
    return root


def inclusion_proof(position: int, size: int, lookup: Lookup) -> Proof:
    """What shows that the leaf at `position` is in the tree of `size` leaves (PATH of RFC 6962 section 2.1.1).

    The siblings on the way up, the lowest first. Raises ValueError if there is no such leaf.
    """
    if not 0 <= position < size:
        raise ValueError(f"a tree of {size} leaves has none at {position}")
    start, end, proof = 0, size, []
    while end - start > 1:
        split = _split(start, end)
        if position < split:
            proof.append(_root_between(split, end, lookup))
            end = split
        else:
            proof.append(_root_between(start, split, lookup))
            start = split
    return tuple(reversed(proof))


def consistency_proof(first: int, size: int, lookup: Lookup) -> Proof:
    """What shows that the tree of `size` leaves begins with that of `first` (PROOF of RFC 6962 section 2.1.2).

    Empty if both are the same tree or the first is empty: every tree begins with the empty one. Raises ValueError
    if the first is the larger.
    """
    if not 0 <= first <= size:
        raise ValueError(f"no tree of {size} leaves begins with one of {first}")
    if first == 0:
        return ()
    start, end, proof = 0, size, []
    while end > first:
        split = _split(start, end)
        if first <= split:
            proof.append(_root_between(split, end, lookup))
            end = split
        else:
            proof.append(_root_between(start, split, lookup))
            start = split
    if start:  # unless the first tree is a complete subtree, whose hash the verifier has: it is the first root
        proof.append(_root_between(start, end, lookup))
    return tuple(reversed(proof))


def _root_between(start: int, end: int, lookup: Lookup) -> bytes:
    """The root over a range of leaves that the RFC's recursion comes past: it begins at a subtree's first leaf."""
    return root_of_edge([lookup(level, (start >> level) + position) for level, position in edge_of(end - start)])


def verify_inclusion(leaf: bytes, position: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof leads from a leaf's hash at `position` to the root (RFC 9162 section 2.1.3.2)."""
    if not 0 <= position < size or not _are_hashes(leaf, root, *proof):
        return False
    at, last, found = position, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            at, last = _to_a_right_child(at, last)
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes,
                       second_root: bytes) -> bool:
    """Whether the proof leads to both roots, the first tree being how the second began (RFC 9162 section 2.1.4.2)."""
    if not 0 <= first <= second or not _are_hashes(first_root, second_root, *proof):
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not proof:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            at, last = _to_a_right_child(at, last)
        else:
            newer = node_hash(newer, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and older == first_root and newer == second_root


def _to_a_right_child(at: int, last: int) -> tuple[int, int]:
    """Up the edge past the levels on which a node has no sibling."""
    while at and not at & 1:
        at, last = at >> 1, last >> 1
    return at, last


def _are_hashes(*given: bytes) -> bool:
    return all(len(found) == hashlib.sha256().digest_size for found in given)

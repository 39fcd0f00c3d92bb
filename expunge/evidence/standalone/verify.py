#!/usr/bin/env python3
"""Checks an evidence bundle: what a model was made to forget, on which bytes, how that was measured, and who agreed.

    python verify.py bundle.zip [--served model.safetensors ...] [--checkpoint FILE ...] [--operator KEY_ID] [--deep]

Needs Python 3.9 or newer and the package `cryptography`; no network, and nothing of the program that wrote the bundle.
With --deep, and with `numpy`, it also computes numbers again that were made of features, if the bundle has those.
The bundle is the zip file, or the folder that it was unpacked to. Give the file that is being served, fetched from
where it is served: without it only the bundle's own copy is looked at. Give checkpoints of the ledger that were kept
where the operator cannot reach them: without one, nothing shows that the ledger was only ever added to.

It goes from the served bytes up, and stops after the first step at which something is wrong:

    1 served        the bytes are those of the release
    2 digests       every file is the one that signed statements and records name
    3 signatures    DSSE envelopes and the checkpoint, by keys that the keyring knows and that counted at their place
    4 inclusion     every statement and decision is in the ledger's tree (RFC 9162)
    5 consistency   that tree begins with the tree of every checkpoint kept outside
    6 rules         counts, intervals and outcomes are computed again from what was answered, sample by sample, and
                    with --deep from features
    7 verdict       what the gate decided follows from them
    8 decisions     enough distinct people other than the requester approved exactly these digests, in time
    9 taint         the released bytes are not what a request had removed

It prints what was PROVED, what is only ATTESTED (the operator says so under signature), and what is NOT SHOWN. Of a run
that released nothing it first says NOT RELEASED: nothing that follows is a reason to serve its model.
Exit code 0: nothing is wrong. 40: something is, and the last line names it. 2: it was not told what to check.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.util
import io
import json
import math
import re
import sys
import unicodedata
import zipfile
import zlib
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

FEATURES = "features.safetensors"
STATEMENT, APPROVAL = "application/vnd.in-toto+json", "application/vnd.expunge.approval+json"
POLICY_SIGNATURE = "application/vnd.expunge.policy+json"
MANIFEST, CHECKPOINT, PROOFS = "manifest.json", "ledger/checkpoint.txt", "ledger/proofs.json"
SKEW = timedelta(minutes=5)  # between two clocks


class Wrong(Exception):
    """Something is not what it should be: which object, and what about it."""


# ------------------------------------------------------------------------------------------------ the bundle


class Bundle:
    """The files of a bundle by name, in a zip file or in the folder that it was unpacked to."""

    def __init__(self, path: Path) -> None:
        self.zip = None if path.is_dir() else zipfile.ZipFile(path)
        self.folder, self.at = path, path.name  # where one is: what is named if it cannot be understood
        listed = self.zip.namelist() if self.zip else [
            file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        self.names = sorted(listed)
        if len(set(listed)) != len(listed):
            raise Wrong(path.name, "a file is in it twice")

    def open(self, name: str) -> Any:
        if name not in self.names:
            raise Wrong(name, "missing")
        return self.zip.open(name) if self.zip else (self.folder / name).open("rb")

    def read(self, name: str) -> bytes:
        self.at = name
        with self.open(name) as file:
            return file.read()

    def digest(self, name: str) -> str:
        with self.open(name) as file:
            return digest_of(file)

    def record(self, name: str) -> dict[str, Any]:
        return parse(self.read(name), name)


def digest_of(file: Any) -> str:
    found = hashlib.sha256()
    for piece in iter(lambda: file.read(1 << 20), b""):
        found.update(piece)
    return found.hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no key occurs twice."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        found = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Wrong(name, "not a record")
    return found


# --------------------------------------------------------------------------------------- keys and signatures


class Keyring:
    """Public keys, whose they are, in which roles, and from which position of the ledger to which they count."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record, self.entries = record, {}  # type: ignore[var-annotated]
        for entry in record["entries"]:
            key_id = entry["key_id"]
            if sha256(bytes.fromhex(entry["public_key"])) != key_id:
                raise Wrong("keyring.json", f"key {key_id[:12]} does not go by its own digest")
            if key_id in self.entries:
                raise Wrong("keyring.json", f"key {key_id[:12]} is in it twice")
            self.entries[key_id] = entry

    def has_admin(self, position: int) -> bool:
        return any("admin" in entry["roles"] and counts_at(entry, position) for entry in self.entries.values())

    def as_of(self, position: int) -> bytes:
        """The keyring's file as it was when the ledger had so many entries: without what came later."""
        known = [entry if entry.get("valid_until", 0) <= position else
                 {key: value for key, value in entry.items() if key not in ("valid_until", "ended", "ended_because")}
                 for entry in self.entries.values() if entry.get("valid_from", 0) <= position]
        found = {**self.record, "entries": known}
        return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def counts_at(entry: dict[str, Any], position: int) -> bool:
    until = entry.get("valid_until")
    return bool(position >= entry.get("valid_from", 0) and (until is None or position < until))


def is_signed(entry: dict[str, Any], signature: bytes, message: bytes) -> bool:
    """Whether this key made the Ed25519 signature (RFC 8032)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry["public_key"])).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Envelope:
    """A DSSE envelope (https://github.com/secure-systems-lab/dsse) with one signature, in its one valid encoding."""

    def __init__(self, name: str, data: bytes, keyring: Keyring, position: int) -> None:
        document = parse(data, name)
        try:
            (signed,) = document["signatures"]
            self.kind, self.key_id = document["payloadType"], signed["keyid"]
            self.payload, signature = (base64.b64decode(text, validate=True)
                                       for text in (document["payload"], signed["sig"]))
            again = {"payload": base64.b64encode(self.payload).decode(), "payloadType": self.kind, "signatures": [
                {"keyid": self.key_id, "sig": base64.b64encode(signature).decode()}]}
            encoded = json.dumps(again, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            kind = self.kind.encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Wrong(name, "not a signed envelope") from None
        if encoded != data:
            raise Wrong(name, "the envelope is not in its one valid encoding")
        self.name, self.position, self.sha256, self.data = name, position, sha256(data), data
        if self.key_id not in keyring.entries:
            raise Wrong(name, f"signed by key {self.key_id[:12]}, which the keyring does not know")
        self.signer = keyring.entries[self.key_id]
        self.person: str = self.signer["person"]
        self.counts = counts_at(self.signer, position)  # a decision by a key that had ended is void, and no more
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)
        if not is_signed(self.signer, signature, message):
            raise Wrong(name, f"the signature is not {self.person}'s over these bytes")
        self.said = parse(self.payload, name)
        if self.kind == STATEMENT:
            self.predicate: dict[str, Any] = self.said["predicate"]
            self.about: str = self.said["predicateType"].split(":")[-2]
            self.subjects = {one["name"]: one["digest"]["sha256"] for one in self.said["subject"]}

    def need(self, *roles: str) -> None:
        if not self.counts:
            raise Wrong(self.name, f"signed by {self.person}'s key {self.key_id[:12]}, which does not count at "
                                   f"position {self.position} of the ledger")
        if not set(roles) & set(self.signer["roles"]):
            raise Wrong(self.name, f"signed by {self.person}, who is not {' or '.join(roles)}")


# ------------------------------------------------------------------------------------------------ the ledger


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes (RFC 9162, section 2.1.1)."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(root_of(leaves[:split]), root_of(leaves[split:]))


def includes(leaf: bytes, position: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """Whether the proof leads from the leaf at that position to the root (RFC 9162, section 2.1.3.2)."""
    at, last, found = position, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return 0 <= position < size and last == 0 and found == root


def begins_with(first: int, size: int, proof: list[bytes], first_root: bytes, root: bytes) -> bool:
    """Whether the proof leads to both roots, the first tree being how the other began (section 2.1.4.2)."""
    if first == size or first == 0:
        return not proof and first_root == (root if first else hashlib.sha256(b"").digest())
    path = [first_root, *proof] if first & (first - 1) == 0 else proof
    if not proof or first > size:
        return False
    at, last = first - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and older == first_root and newer == root


NOTE = re.compile(r"([^\s+]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n\n— ([^\s+]+) ([A-Za-z0-9+/=]+)\n")


class Checkpoint:
    """A ledger's head: a signed note in the form of https://c2sp.org/tlog-checkpoint, by an operator's key."""

    def __init__(self, name: str, note: bytes, keyring: Keyring) -> None:
        form = NOTE.fullmatch(note.decode("utf-8", "replace"))
        if form is None:
            raise Wrong(name, "not a signed checkpoint")
        self.origin, self.size, signer = form[1], int(form[2]), form[4]
        self.root, signed = base64.b64decode(form[3]), base64.b64decode(form[5])
        body = f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"
        if f"{body}\n— {signer} {base64.b64encode(signed).decode()}\n".encode() != note or signer != self.origin:
            raise Wrong(name, "the checkpoint is not in its one valid encoding")
        for entry in keyring.entries.values():
            named = hashlib.sha256(signer.encode() + b"\n\x01" + bytes.fromhex(entry["public_key"])).digest()[:4]
            if ("operator" in entry["roles"] and named == signed[:4] and is_signed(entry, signed[4:], body.encode())
                    and (counts_at(entry, self.size) or counts_at(entry, self.size - 1))):
                self.key_id = entry["key_id"]
                return
        raise Wrong(name, "no operator of this keyring signed this checkpoint")


# -------------------------------------------------------------------------------------- intervals from counts


def beta_below(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where it converges fast
        return 1 - beta_below(b, a, 1 - x)
    tiny, c, d, found = 1e-300, 1.0, 0.0, 1.0
    for step in range(100_000):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        d = 1 / (1 + term * d or tiny)
        c = (1 + term / c) or tiny
        found *= c * d
        if step and abs(c * d - 1) < 1e-15:
            break
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) * (found - 1) / a


def bisect(too_low: Callable[[float], bool], low: float, high: float) -> float:
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return (low + high) / 2


def exact(hits: float, n: float, tail: float) -> tuple[float, float]:
    """Clopper and Pearson 1934: bounds of a rate after `hits` in `n`, each wrong with probability `tail` at most."""
    lower = 0.0 if hits == 0 else bisect(lambda x: beta_below(hits, n - hits + 1, x) < tail, 0.0, 1.0)
    upper = 1.0 if hits == n else bisect(lambda x: beta_below(hits + 1, n - hits, x) < 1 - tail, 0.0, 1.0)
    return lower, upper


SHIFTS = [2.0 ** (1.5 - k / 2) for k in range(17)]
BELOW = [0.24, 0.18, 0.12, 0.02, 0.03, 0.1, 0.24, 0.017, 0.013, 0.01, 0.008, 0.006, 0.004, 0.003, 0.003, 0.002, 0.002,
         0.002]
ABOVE = [0.105, 0.24, 0.33, 0.005, 0.25, 0.02, 0.014, 0.01, 0.007, 0.005, 0.004, 0.003, 0.002, 0.002, 0.001, 0.001,
         0.001]


def sequence(hits: int, n: int, tail: float) -> tuple[float, float]:
    """Robbins 1970: bounds that hold at every n at once, from a mixture of likelihood ratios; see docs/method.

    A rate is rejected once the mixture against it reaches 1/tail. The weights of the alternatives are fixed.
    """
    def highest(seen: int, weights: list[float], shifts: list[float]) -> float:
        def kept(doubted: float) -> bool:
            terms = [math.log(weight / sum(weights)) - (shift * seen if seen else 0.0)
                     - math.log1p(doubted * math.expm1(-shift)) * n
                     for weight, shift in ((weights[k], shifts[k]) for k in range(len(weights)))]
            most = max(terms)
            return most + math.log(sum(math.exp(term - most) for term in terms)) < -math.log(tail)

        top = math.nextafter(1.0, 0.0) if hasattr(math, "nextafter") else 1 - 2**-53
        return 1.0 if kept(top) else bisect(kept, seen / n, top)

    return 1 - highest(n - hits, ABOVE, SHIFTS), highest(hits, BELOW, [math.inf, *SHIFTS])


Bounds = Callable[[int, int, float], "tuple[float, float]"]
METHODS: dict[str, Bounds] = {"Clopper-Pearson": exact, "confidence sequence": sequence}


def bounds_named(method: str) -> Bounds | None:
    return next((found for name, found in METHODS.items() if method.startswith(name)), None)


# ------------------------------------------------------------------------- measurements from single answers


def rate(hits: list[bool], alpha: float, bounds: Bounds) -> Any:
    return (sum(hits) / len(hits), *bounds(sum(hits), len(hits), alpha / 2))


def ratio(before: list[bool], after: list[bool], alpha: float, bounds: Bounds) -> Any:
    """After over before on the same samples: bounds of what stayed and of what is new, together at 1 - alpha."""
    n, was = len(before), sum(before)
    stayed = sum(before[i] and after[i] for i in range(n))
    gained = sum(after) - stayed
    stay, gain = bounds(stayed, was, alpha / 4), bounds(gained, n - was, alpha / 4) if n > was else (0.0, 0.0)
    odds = (n - was) / was
    return sum(after) / was, stay[0] + gain[0] * odds, stay[1] + gain[1] * odds


def difference(before: list[bool], after: list[bool], alpha: float) -> Any:
    """Rate after minus rate before on the same samples: bounds of what was gained and lost, together."""
    n = len(before)
    gained, lost = (sum(one[i] and not other[i] for i in range(n)) for one, other in ((after, before), (before, after)))
    up, down = exact(gained, n, alpha / 4), exact(lost, n, alpha / 4)
    return (gained - lost) / n, up[0] - down[1], up[1] - down[0]


def recount(family: str, report: dict[str, Any], tables: dict[str, list[dict[str, str]]], single: bool
            ) -> Iterator[tuple[str, Callable[[float], Any]]]:
    """Every measurement that follows from counted answers: its name, and the number at an alpha.

    `tables` hold the report's CSV files: one row per sample, with what the judge or the classifier answered.
    """
    unwanted, earlier = set(report["unwanted"]), set(report["earlier"])
    named = report["classes"]
    bounds: Bounds = exact if report["stopping"] is None else sequence

    def rates(name: str, hits: list[bool], by: Bounds = exact) -> Iterator[tuple[str, Callable[[float], Any]]]:
        if hits:
            yield name, partial(rate, hits, bounds=by)

    def each(name: str, labels: set[int]) -> list[tuple[str, set[int]]]:
        single_ones = [(f"{name}[{named[label] if named else label}]", {label}) for label in sorted(labels)]
        return [(name, labels), *(single_ones if len(labels) > 1 else ())] if labels else []

    if family == "gan" and "scores" in tables:
        seen = {ending: [int(row[side]) for row in tables["scores"]]
                for ending, side in (("_before", "class_before"), ("", "class_after"))}
        for ending, classes in seen.items():
            asked = [*((name, labels) for name, labels in each(f"residual_rate{ending}", unwanted)),
                     *((name, labels) for name, labels in each(f"residual_rate_earlier{ending}", earlier))]
            for name, labels in asked:
                yield from rates(name, [found in labels for found in classes], bounds)
        was, is_now = ([found in unwanted for found in seen[ending]] for ending in ("_before", ""))
        if any(was):
            def pul(alpha: float) -> Any:
                left = ratio(was, is_now, alpha, bounds)
                return 1 - left[0], 1 - left[2], 1 - left[1]
            yield "pul", pul
        kept = [label for label in range(len(report["shares"])) if label not in unwanted | earlier]
        pairs = [([x == label for x in seen["_before"]], [x == label for x in seen[""]]) for label in kept]
        if pairs and all(any(before) for before, _ in pairs):
            def smallest(alpha: float) -> Any:
                found = [ratio(before, after, alpha / len(pairs), bounds) for before, after in pairs]
                return tuple(min(column) for column in (list(values) for values in zip(*found)))
            yield "kept_share", smallest
    if family == "gan" and "search" in tables:
        found = {model: [row["found"] == "1" for row in tables["search"] if row["model"] == model]
                 for model in ("candidate", "parent")}
        yield from rates("search_rate", found["candidate"])
        yield from rates("search_rate_before", found["parent"])
        if found["candidate"] and any(found["parent"]):
            yield "search_ratio", lambda alpha: ratio(found["parent"], found["candidate"], alpha, exact)
    if family == "classifier" and "predictions" in tables:
        for ending, side in (("", "class_after"), ("_before", "class_before")):
            for name, labels in (*each(f"forget_accuracy{ending}", unwanted),
                                 *each(f"forget_accuracy_earlier{ending}", earlier)):
                yield from rates(name, [row[side] == row["label"] for row in tables["predictions"]
                                        if int(row["label"]) in labels])
        rest = [row for row in tables["predictions"] if int(row["label"]) not in unwanted | earlier]
        for name, side in (("retained_accuracy_difference", "class_before"),
                           ("retained_accuracy_drift", "class_origin")):
            if rest and side in rest[0]:
                before, after = ([row[one] == row["label"] for row in rest] for one in (side, "class_after"))
                yield name, partial(difference, before, after)
    if family == "flow" and "likelihoods" in tables:
        def share(name: str, part: str, side: str, labels: set[int]) -> Iterator[tuple[str, Callable[[float], Any]]]:
            rows = [row for row in tables["likelihoods"] if row["set"] == part]
            of = [[row.get(side) == "1" for row in rows if int(row["label"]) == label] for label in sorted(labels)]
            pick = max if name.startswith("forget_outlying") else min

            def extreme(alpha: float) -> Any:
                found = [rate(each, alpha / len(of), bounds=exact) for each in of]
                return tuple(pick(column) for column in (list(values) for values in zip(*found)))
            if of and all(of):
                yield name, extreme

        for ending, side in (("", "after"), ("_before", "before")):
            if not single:
                yield from share(f"unlikely_share{ending}", "holdout", f"unlikely_{side}", unwanted)
                yield from share(f"forget_unlikely_share{ending}", "forget", f"unlikely_{side}", unwanted)
                yield from share(f"forget_outlying_share{ending}", "forget", f"outlying_{side}", unwanted)
            yield from share(f"unlikely_share_earlier{ending}", "holdout", f"unlikely_{side}", earlier)
    if family == "image_to_image" and "completions" in tables:
        def right(part: str, side: str) -> list[bool]:
            return [row[f"class_{side}"] == row["label"] for row in tables["completions"] if row["set"] == part]

        parts = ["forget"] if single else ["forget", "held-out unwanted"]
        if all(right(part, "after") for part in parts):
            def excess(alpha: float) -> Any:
                values = [difference(right(part, "shown"), right(part, "after"), alpha / len(parts)) for part in parts]
                return tuple(max(column) for column in (list(found) for found in zip(*values)))
            yield "recognised_excess", excess
        if right("rest", "after"):
            yield "retained_recognised_difference", partial(difference, right("rest", "before"), right("rest", "after"))
        if right("earlier", "after"):
            yield "recognised_excess_earlier", partial(difference, right("earlier", "shown"), right("earlier", "after"))


# ------------------------------------------------------------------- measurements from features (--deep, and numpy)


def read_arrays(data: bytes, name: str) -> dict[str, Any]:
    """Arrays by name from a file in the form of the safetensors library, which holds no code."""
    import numpy as np

    size = int.from_bytes(data[:8], "little")
    said, numbers = parse(data[8:8 + size], name), data[8 + size:]
    said.pop("__metadata__", None)
    kinds = {"F32": "<f4", "I64": "<i8"}
    return {key: np.frombuffer(numbers[slice(*one["data_offsets"])], kinds[one["dtype"]]).reshape(one["shape"])
            for key, one in said.items()}


class Kids:
    """Kernel distances (KID; Binkowski et al. 2018, section 4) of sets of samples to the same real images.

    Each is an array of 1,001 numbers: first of all samples and images, then of a thousand random halves of both.
    Chance is numpy's generator from the seed that the report's was, so that the halves are the same ones: `latents`
    samples, and the real images of each class, are dealt into 50 blocks, fewer where there are few. One half is half
    of the blocks of either, and a latent that a set does not name is one whose sample does not count.
    """

    def __init__(self, real: Any, labels: list[int], latents: int, sets: dict[str, tuple[Any, list[int]]]) -> None:
        import numpy as np

        real = real.astype(np.float64)
        self.scale = 1 / np.sqrt((real**2).mean())  # to a mean square of one per feature
        random = np.random.default_rng(0)

        def dealt(strata: list[int]) -> Any:
            blocks = max(4, min(50, len(strata) // 2))
            block = np.empty(len(strata), dtype=int)
            block[np.lexsort([random.permutation(len(strata)), np.array(strata)])] = np.arange(len(strata)) % blocks
            return np.eye(blocks)[block]  # [samples, blocks]: 1 in the block that it is in

        self.block, self.real_block, self.real = dealt([0] * latents), dealt(labels), real * self.scale
        random = np.random.default_rng([0, 1])

        def halves(blocks: int) -> Any:
            ranks = random.random((1000, blocks)).argsort(axis=1).argsort(axis=1)
            return np.vstack([np.ones(blocks), ranks < blocks // 2])  # [1,001, blocks]

        self.half, self.real_half = halves(self.block.shape[1]), halves(self.real_block.shape[1])
        self.freedom = min(self.half.shape[1], self.real_half.shape[1]) - 1
        self.sets, self.found = sets, {}  # type: ignore[var-annotated]

    def of(self, name: str) -> Any:
        """The distances of one set: samples [n, d] and the latents [n] that they were drawn from."""
        if name not in self.found:
            samples, latents = self.sets[name]
            x, block = samples.astype(self.real.dtype) * self.scale, self.block[latents]
            pairs = (self.half @ block.sum(axis=0)) * (self.real_half @ self.real_block.sum(axis=0))
            across = ((self.half @ kernel_sums(x, block, self.real, self.real_block)) * self.real_half).sum(axis=1)
            self.found[name] = (within(x, block, self.half) + within(self.real, self.real_block, self.real_half)
                                - 2 * across / pairs)
        return self.found[name]

    def alone(self, name: str, alpha: float) -> Any:
        return self.bounded(self.of(name), alpha)

    def less(self, name: str, other: str, alpha: float) -> Any:
        return self.bounded(self.of(name) - self.of(other), alpha)

    def bounded(self, kid: Any, alpha: float) -> Any:
        """The number and its bounds by Student's t: halves are as far from the whole as the whole is from the truth."""
        reach = student(self.freedom, alpha) * math.sqrt(((kid[1:] - kid[0]) ** 2).mean())
        return kid[0], kid[0] - reach, kid[0] + reach

    def over(self, name: str, other: str, alpha: float) -> Any:
        """The ratio of two, by Fieller 1954, who knows that both were measured."""
        off, (top, bottom) = [self.of(one)[1:] - self.of(one)[0] for one in (name, other)], (
            self.of(one)[0] for one in (name, other))
        (top_top, both), (_, bottom_bottom) = ([(one * two).mean() for two in off] for one in off)
        quantile, value = student(self.freedom, alpha), top / bottom
        doubt = quantile**2 * bottom_bottom / bottom**2
        spread = top_top - 2 * value * both + value**2 * bottom_bottom - doubt * (top_top - both**2 / bottom_bottom)
        reach, middle = quantile / bottom * math.sqrt(max(0.0, spread)), value - doubt * both / bottom_bottom
        return value, (middle - reach) / (1 - doubt), (middle + reach) / (1 - doubt)


def kernel_sums(x: Any, x_block: Any, y: Any, y_block: Any) -> Any:
    """Sums of the kernel (x.y/d + 1)^3 over pairs, by the blocks of both: [blocks, blocks]."""
    return sum(x_block[at:at + 500].T @ ((x[at:at + 500] @ y.T / x.shape[1] + 1) ** 3 @ y_block)
               for at in range(0, len(x), 500))


def within(x: Any, block: Any, half: Any) -> Any:
    """The kernel's mean over pairs of different samples of one set, of all and of each half."""
    own = block.T @ ((x**2).sum(axis=1) / x.shape[1] + 1) ** 3  # a sample with itself is no pair
    count, sums = half @ block.sum(axis=0), kernel_sums(x, block, x, block)
    return (((half @ sums) * half).sum(axis=1) - half @ own) / (count * (count - 1))


MOST_SAMPLES = 10_000  # beyond this a random part of them is looked at


def coverage(samples: Any, real: Any, alpha: float) -> Any:
    """The share of real images that some sample is nearer to than their fifth neighbour among the real ones is.

    Naeem et al. 2020, eq. 7. One sample may cover many: the bounds are exact ones at the count of images that leaving
    out one sample after the other shows there to be in effect (Korn and Graubard 1998).
    """
    import numpy as np

    def some(table: Any) -> Any:
        if len(table) > MOST_SAMPLES:
            table = table[np.sort(np.random.default_rng([0, len(table)]).permutation(len(table))[:MOST_SAMPLES])]
        return table.astype(np.float64)

    def apart(x: Any, y: Any) -> Any:  # squared distances; as products, which round a little
        return np.maximum(0, (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T)

    x, y = some(samples) - some(real).mean(axis=0), some(real) - some(real).mean(axis=0)
    n, m = len(x), len(y)
    reach = np.concatenate([np.partition(apart(y[at:at + 500], y), 5, axis=1)[:, 5] for at in range(0, m, 500)])
    reach += 1e-12 * (reach + (y**2).sum(axis=1))  # a sample that is as far away as that is inside
    inside = [apart(x[at:at + 500], y) <= reach for at in range(0, n, 500)]
    covering = sum(part.sum(axis=0) for part in inside)  # samples, of each real image
    alone = np.concatenate([(part & (covering == 1)).sum(axis=1) for part in inside]) / m  # images lost without one
    hits = int((covering > 0).sum())
    share = min(max(hits, 0.5), m - 0.5) / m
    variance = (n - 1) / n * ((alone - alone.mean()) ** 2).sum()
    effective = float(m / max(1.0, variance / (share * (1 - share) / m)))
    return (hits / m, *exact(effective * (hits / m), effective, alpha / 2))


def student(freedom: int, alpha: float) -> float:
    """What Student's t exceeds in absolute value with probability alpha, by the incomplete beta function."""
    return bisect(lambda t: beta_below(freedom / 2, 0.5, freedom / (freedom + t * t)) > alpha, 0.0, 1e4)


def measure_again(family: str, report: dict[str, Any], tables: dict[str, list[dict[str, str]]], single: bool,
                  features: dict[str, Any], name: str) -> Iterator[tuple[str, Callable[[float], Any]]]:
    """Every number that follows from the report's features: its name, and the number at an alpha.

    Of what was drawn the features have what the answers call retained, with the latent of each; of real images those
    of retained classes, with their labels. Completions of every other image of a class are held against the others.
    """
    if family == "image_to_image":
        labels = [int(row["label"]) for row in tables["completions"] if row["set"] == "rest"]
        first = [at for at, label in enumerate(labels) if labels[:at].count(label) % 2 == 0]
        others = sorted({*range(len(labels))} - {*first})
        sets = {side: (features[f"rest.{side}"][first], [*range(len(first))]) for side in ("before", "after")}
        real = features["rest.image"][others]
        kids = Kids(real, [labels[at] for at in others], len(first), sets)
    else:
        lost = {*report["earlier"], *(() if family == "flow" and single else report["unwanted"])}
        drawn = report["stopping"]["fixed"] if report["stopping"] else len(tables["scores"])
        seen = {side: [int(row[f"class_{side}"]) for row in tables["scores"][:drawn]] for side in ("before", "after")}
        expected = {f"{side}.latent": [at for at in range(drawn) if seen[side][at] not in lost] for side in seen}
        expected["real.label"] = [label for label in (int(row["label"]) for row in tables["real"]) if label not in lost]
        for array, values in expected.items():
            if features[array].tolist() != values:
                raise Wrong(name, f"{array} is not what the report's answers say")
        sets = {side: (features[side], features[f"{side}.latent"].tolist()) for side in (*seen, "origin")
                if side in features}
        kept = {label: [at for at, found in enumerate(seen["after"]) if found == label]
                for label in {*seen["before"]} - lost}
        if kept and all(kept.values()):
            # Of each class its first samples, as many as give it the share that it had of the parent's samples.
            was = {label: seen["before"].count(label) / drawn for label in kept}
            scarcest = min(len(kept[label]) / was[label] for label in kept)
            thinned = {at for label in kept for at in kept[label][:int(scarcest * was[label] + 1e-6)]}
            rows = [row for row, at in enumerate(sets["after"][1]) if at in thinned]
            sets["thinned"] = features["after"][rows], sorted(thinned)
        real = features["real"]
        kids = Kids(real, expected["real.label"], drawn, sets)
        if "origin" in sets:
            yield "drift", partial(kids.less, "after", "origin")
        if "thinned" in sets:
            yield "kid_difference_fixed_shares", partial(kids.less, "thinned", "before")
    yield "coverage", partial(coverage, sets["after"][0], real)
    yield "kid_before", partial(kids.alone, "before")
    yield "kid_after", partial(kids.alone, "after")
    yield "kid_difference", partial(kids.less, "after", "before")
    yield "kid_ratio", partial(kids.over, "after", "before")


# ------------------------------------------------------------------------------------------ rules and verdict


READS_WEIGHTS = ("search_rate", "search_ratio", "relearning_ratio", "grafted_accuracy")
WORST_FIRST = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")
SAME = 1e-9  # between two computations of the same bound
RULE: dict[str, Any] = {"metric": None, "side": None, "limit": None, "confidence": None, "one_sided": False,
                        "families": [], "if_earlier": False, "about": None}


def read_policy(data: bytes) -> dict[str, Any]:
    """A policy from JSON or from plainly written YAML; ValueError where only a whole YAML reader would do.

    What it reads is held against the rules in the signed verdict, so a line that others read otherwise is noticed.
    """
    defaults, text = {"approvals": 1, "valid_days": 30.0}, data.decode()
    if text.lstrip().startswith("{"):
        return {**defaults, **json.loads(text)}
    rules = []
    for dash in re.finditer(r"(?m)^( *- )metric:", text):
        block = re.split(r"(?m)^ *- \w+:|^\S", text[dash.end():])[0]  # up to the next rule, or whatever follows
        rules.append(fields(f"{' ' * len(dash[1])}metric:{block}", len(dash[1])))
    if len(rules) != len(re.findall(r"(?m)^ *- \w+:", text)):
        raise ValueError("a rule that does not begin with its metric")
    return {**defaults, **fields(text, 0), "rules": rules}


def fields(text: str, indent: int) -> dict[str, Any]:
    """The plain values of one mapping; what is written in words over several lines is no plain value."""
    found: dict[str, Any] = {}
    for key, value in re.findall(rf"(?m)^ {{{indent}}}(\w+): *(.*?)(?: +#.*)?$", text):
        if key in ("reason", "breach", "rules", "show_before"):
            continue
        if key in found or not value or value[0] in "&*!{?%@`>|":
            raise ValueError(key)
        listed = re.fullmatch(r"\[(.*)\]", value)
        found[key] = [scalar(item) for item in listed[1].split(",") if item.strip()] if listed else scalar(value)
    return found


def scalar(text: str) -> Any:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text in ("true", "false", "null"):
        return {"true": True, "false": False}.get(text)
    try:
        return float(text)
    except ValueError:
        return text


def sides(method: str) -> str:
    return next((side for side in ("upper", "lower") if method.endswith(f", one-sided {side}")), "two-sided")


def unusable(rule: dict[str, Any], found: dict[str, Any]) -> str:
    """Why a measurement cannot serve a rule; empty if it can."""
    interval, value = found["interval"], found["estimate"]
    if found["not_applicable"] or value is None or interval is None:
        return "there is no number with an interval"
    lower, upper, method = interval["lower"], interval["upper"], interval["method"]
    if not lower <= value <= upper:
        return "the estimate lies outside of its interval"
    passes = "upper" if rule["side"] == "at most" else "lower"
    if sides(method) != "two-sided" and not (rule["one_sided"] and sides(method) == passes):
        return "the interval bounds the wrong side"
    if interval["confidence"] < rule["confidence"] - SAME:
        return "the interval holds with less confidence than the rule asks for"
    _, censored, ended = method.partition(", at least: repeats ended at ")
    if censored and rule["limit"] >= float(ended):
        return f"repeats ended at {ended}"
    bounds = bounds_named(method)
    if bounds is not None:
        n, hits = found["n"], round(value * found["n"])
        low, high = bounds(hits, n, (1 - interval["confidence"]) / (2 if sides(method) == "two-sided" else 1))
        expected = (0.0 if sides(method) == "upper" else low, 1.0 if sides(method) == "lower" else high)
        if abs(hits / n - value) > SAME or abs(expected[0] - lower) > SAME or abs(expected[1] - upper) > SAME:
            return "the interval is not the one that its counts give"
    return ""


def judge(rule: dict[str, Any], measurements: list[dict[str, Any]]) -> str:
    """PASS if the whole interval is on the right side of the limit, FAIL if it is on the other."""
    found = [one for one in measurements if one["name"] == rule["metric"]]
    if len(found) != 1 or unusable(rule, found[0]):
        return "INVALID"
    (one,), interval = found, found[0]["interval"]
    lower, upper, bounds = interval["lower"], interval["upper"], bounds_named(interval["method"])
    if bounds is not None:  # a rate: its counts give the interval at the rule's own confidence
        tail = (1 - rule["confidence"]) / (1 if rule["one_sided"] else 2)
        lower, upper = bounds(round(one["estimate"] * one["n"]), one["n"], tail)
    if rule["side"] == "at most":
        return "PASS" if upper <= rule["limit"] else "FAIL" if lower > rule["limit"] else "INCONCLUSIVE"
    return "PASS" if lower >= rule["limit"] else "FAIL" if upper < rule["limit"] else "INCONCLUSIVE"


def worst(outcomes: Iterable[str]) -> str:
    found = set(outcomes)
    return next((outcome for outcome in WORST_FIRST if outcome in found), "PASS")


def controls_gone_wrong(controls: list[dict[str, Any]], rules: list[dict[str, Any]]) -> list[str]:
    """Controls that did not come out as they must, and kinds of which none was run."""
    wrong, names = [], [control["name"] for control in controls]
    covering = {"FAIL": False, "not FAIL": False}
    for control in controls:
        covered = [rule for rule in rules if rule["metric"] in control["covers"]]
        outcome = worst(judge(rule, control["measurements"]) for rule in covered)
        fine = outcome == "FAIL" if control["must"] == "FAIL" else outcome in ("PASS", "INCONCLUSIVE")
        covering[control["must"]] |= bool(covered)
        if (covered and not fine) or names.count(control["name"]) > 1:
            wrong.append(control["name"])
    wrong += [f"a control that must {must}" for must, there in covering.items() if not there]
    for rule in (rule for rule in rules if rule["metric"] in READS_WEIGHTS):
        if not any(control["name"] == "output filter" and control["must"] == "FAIL"
                   and rule["metric"] in control["covers"] and judge(rule, control["measurements"]) == "FAIL"
                   for control in controls):
            wrong.append(f"output filter, for {rule['metric']}")
    return wrong


# ------------------------------------------------------------------------------------------------- the check


class Check:
    """One bundle being checked, step by step; later steps rely on what earlier ones found."""

    def __init__(self, bundle: Bundle, served: list[Path], outside: list[Path], operator: str | None,
                 deep: bool = False) -> None:
        self.bundle, self.served, self.outside, self.operator, self.deep = bundle, served, outside, operator, deep
        self.said: list[tuple[str, str]] = []
        self.given: dict[str, Path] = {}
        released = [name for name in bundle.names if re.fullmatch(r"releases/[^/]+/[^/]+/release\.json", name)]
        if len(released) > 1:
            raise Wrong("releases", f"there are {len(released)} of them, not one")
        self.release_name = released[0] if released else ""
        self.release = bundle.record(self.release_name) if released else {}  # of a run that released nothing: empty

    def proved(self, text: str) -> None:
        self.said.append(("PROVED", text))

    def attested(self, text: str) -> None:
        self.said.append(("ATTESTED", text))

    def not_shown(self, text: str) -> None:
        self.said.append(("NOT SHOWN", text))

    def all(self) -> None:
        for step in (self.serving, self.digests, self.signatures, self.inclusion, self.consistency, self.rules,
                     self.verdict, self.decisions, self.taint if self.release else self.service, self.claim):
            step()

    # -------------------------------------------------------------------------------------- 1, 2: the bytes

    def serving(self) -> None:
        for file in self.served:
            with file.open("rb") as opened:
                self.given[digest_of(opened)] = file

    def digests(self) -> None:
        bundle = self.bundle
        self.keyring = Keyring(bundle.record("keyring.json"))
        self.head = Checkpoint(CHECKPOINT, bundle.read(CHECKPOINT), self.keyring)
        self.manifest = Envelope(MANIFEST, bundle.read(MANIFEST), self.keyring, self.head.size)
        listed = self.manifest.subjects
        for name in sorted({*listed, *bundle.names} - {MANIFEST}):
            if name not in listed:
                raise Wrong(name, "it is not listed in the bundle's manifest")
            if bundle.digest(name) != listed[name]:
                raise Wrong(name, "its bytes are not those that the bundle's manifest lists")
        self.proved(f"{len(listed)} files are those of the manifest")

    def released(self) -> None:
        """The served bytes, and the bundle's own, are those of the release: asked once its record is known to be."""
        home, weights = self.release_name.rpartition("/")[0], self.release["weights"]
        files = {file["sha256"]: file["name"] for file in (weights, *self.release["beside"])}
        for digest, file in self.given.items():
            if digest not in files:
                raise Wrong(str(file), f"its bytes ({digest[:12]}) are not those of the release, which are "
                                       f"{weights['sha256'][:12]}")
        for digest, name in files.items():
            here = f"{home}/{name}"
            if here in self.bundle.names and self.bundle.digest(here) != digest:
                raise Wrong(here, "its bytes are not those of the release")
        if weights["sha256"] in self.given:
            self.proved(f"{self.given[weights['sha256']]} is the released {weights['name']}, {weights['sha256']}")
        else:
            self.not_shown("which bytes are served: give the file, fetched from where it is served, with --served")
            if f"{home}/{weights['name']}" not in self.bundle.names:
                self.not_shown("the released weights: they are not in the bundle, only their digest is")

    def not_released(self, state: str) -> None:
        """No served bytes are those of a candidate that was never released."""
        self.said.append(("NOT RELEASED", f"run {self.run} released nothing; its last statement in this bundle says: "
                                          f"{state.replace('_', ' ')}"))
        weights = self.candidate["weights"]["sha256"]
        if weights in self.given:
            raise Wrong(str(self.given[weights]), "it is the candidate of a run that released nothing, and is served")
        for file in self.given.values():
            self.proved(f"{file} is not the candidate of this run, {weights}")

    # ------------------------------------------------------------------------------------ 3, 4, 5: the ledger

    def signatures(self) -> None:
        bundle = self.bundle
        self.manifest.need("operator")
        self.run = self.manifest.predicate["run"]
        for name, actual in (("run", self.release.get("run", self.run)), ("ledger_size", self.head.size),
                             ("ledger_root", self.head.root.hex())):
            if self.manifest.predicate[name] != actual:
                raise Wrong(MANIFEST, f"it is of another {name.replace('_', ' ')} than the bundle")
        self.entries = [Envelope(name, bundle.read(name), self.keyring, int(Path(name).stem))
                        for name in bundle.names if name.startswith("ledger/entries/")]
        for entry in self.entries:
            if entry.kind == STATEMENT:
                entry.need(*(("admin", "operator") if entry.about == "keyring" else ("operator",)))
                self.subjects_of(entry)
            elif entry.kind not in (APPROVAL, POLICY_SIGNATURE):
                raise Wrong(entry.name, f"it holds {entry.kind}, unknown here")
        self.run_itself()
        self.proved(f"{len(self.entries)} ledger entries, the checkpoint and the manifest are signed by keys of the "
                    "keyring that counted where they were used")
        self.keyring_history()
        if self.operator and not self.head.key_id.startswith(self.operator):
            raise Wrong(CHECKPOINT, f"signed by operator's key {self.head.key_id[:12]}, not by {self.operator[:12]}")
        if not self.operator:
            self.not_shown(f"whose key {self.head.key_id[:12]} is: the keyring came with the bundle. Compare it with "
                           "what the operator told you, or give it with --operator")

    def subjects_of(self, entry: Envelope) -> None:
        for name, digest in entry.subjects.items():
            if entry.about in ("room", "run") and name in self.bundle.names and self.bundle.digest(name) != digest:
                raise Wrong(name, f"not what ledger entry {entry.position} was signed over")

    def run_itself(self) -> None:
        """What the run's last statement says, and the rooms' statements that it names."""
        about = [entry for entry in self.entries if entry.kind == STATEMENT and entry.about == "run"
                 and entry.predicate["run"] == self.run]
        if not about:
            raise Wrong("ledger/entries", f"no statement on run {self.run}")
        last = about[-1].predicate
        by_digest = {entry.sha256: entry for entry in self.entries}
        self.rooms = {}
        for room, use in last["rooms"].items():
            entry = by_digest.get(use["statement_sha256"])
            if entry is None or entry.kind != STATEMENT or entry.predicate.get("room") != room:
                raise Wrong("ledger/entries", f"the statement of {room} in run {self.run} is missing")
            self.rooms[room] = entry
        self.records(last["request_sha256"])
        if self.release:
            self.released()
        else:
            self.not_released(last["state"])

    def records(self, request_sha256: str) -> None:
        """The records that the rooms made, the request and the policy all speak of each other, by digest."""
        _, self.candidate = self.made_by("unlearn", "candidate")
        report, self.report = self.made_by("evaluate", "report")
        verdict, self.decided = self.made_by("gate", "verdict")
        self.request_name, self.policy_name = (f"runs/{self.run}/{name}" for name in ("request.json", "policy.yaml"))
        self.request, digest = self.bundle.record(self.request_name), self.bundle.digest
        self.subject = {"request_sha256": digest(self.request_name), "report_sha256": digest(report),
                        "candidate_sha256": self.candidate["weights"]["sha256"],
                        "policy_sha256": digest(self.policy_name)}
        seed = sha256(bytes.fromhex(self.subject["candidate_sha256"] + self.subject["request_sha256"]))
        chain = [
            (self.request_name, "the run's request", self.subject["request_sha256"], request_sha256),
            (self.policy_name, "the verdict's policy", self.subject["policy_sha256"], self.decided["policy_sha256"]),
            (MANIFEST, "of the request's model", self.manifest.predicate["model"], self.request["model"]),
            *((verdict, f"a verdict on the {what}", self.decided[f"{what}_sha256"], self.subject[f"{what}_sha256"])
              for what in ("candidate", "report")),
            *((report, f"a report on the {what}", self.report[f"{what}_sha256"], self.subject[f"{what}_sha256"])
              for what in ("candidate", "request")),
            (report, "a report on the candidate's parent", self.report["parent_sha256"],
             self.candidate["parent_sha256"]),
            (report, "drawn from H(candidate, request)", self.report["latent_seed"], seed)]
        if self.release or "deploy" in self.rooms:
            if not self.release:
                raise Wrong("releases", f"the release of run {self.run} is missing")
            due = {**self.subject, "parent_sha256": self.candidate["parent_sha256"], "verdict_sha256": digest(verdict)}
            chain += [
                (self.release_name, "deploy's record", digest(self.release_name), digest(self.made_by(
                    "deploy", "release")[0])),
                (self.release_name, "a release of the candidate's weights", self.release["weights"]["sha256"],
                 self.subject["candidate_sha256"]),
                *((self.release_name, f"a release on this {name.rpartition('_')[0]}", self.release[name], due[name])
                  for name in due if name != "policy_sha256")]
        for name, what, found, expected in chain:
            if found != expected:
                raise Wrong(name, f"not {what}: {found[:12]}, not {expected[:12]}")

    def name_of(self, room: str, output: str) -> str:
        found = [name for name in self.rooms[room].subjects if name.endswith(f"/{output}/record.json")]
        if len(found) != 1:
            raise Wrong(self.rooms[room].name, f"it speaks of {len(found)} records of a {output}")
        return found[0]

    def made_by(self, room: str, output: str) -> tuple[str, dict[str, Any]]:
        if room not in self.rooms:
            raise Wrong("ledger/entries", f"the run's statement names no {room}")
        name = self.name_of(room, output)
        return name, self.bundle.record(name)

    def keyring_history(self) -> None:
        """Every change of the keyring is a statement: an admin's, or the operator's while nobody is admin."""
        changes = [entry for entry in self.entries if entry.kind == STATEMENT and entry.about == "keyring"
                   and entry.predicate["position"] == entry.position]  # elsewhere it came too late, and changed nothing
        for change in changes:
            change.need("admin" if self.keyring.has_admin(change.position) else "operator")
            (digest,) = change.subjects.values()
            if sha256(self.keyring.as_of(change.position + 1)) != digest:
                raise Wrong("keyring.json", f"not the keyring that ledger entry {change.position} was signed over")
        if not changes:
            self.not_shown("who entered these keys: the ledger says nothing of this keyring")
            return
        by = sorted({entry.person for entry in changes})
        self.proved(f"the keyring is what {len(changes)} entries of the ledger made it, signed by {' and '.join(by)}")

    def inclusion(self) -> None:
        self.proofs = self.bundle.record(PROOFS)
        for entry in self.entries:
            proof = [bytes.fromhex(found) for found in self.proofs["inclusion"].get(str(entry.position), [])]
            if not includes(leaf_hash(entry.data), entry.position, self.head.size, proof, self.head.root):
                raise Wrong(entry.name, "it is not in the ledger's tree at this position")
        self.proved(f"they are in the ledger {self.head.origin}, whose checkpoint is over {self.head.size} entries")

    def consistency(self) -> None:
        inside = [(name, self.bundle.read(name), False) for name in self.bundle.names
                  if name.startswith("ledger/checkpoints/")]
        outside = [(str(file), file.read_bytes(), True) for file in self.outside]
        shown = []
        for name, note, is_outside in inside + outside:
            older = Checkpoint(name, note, self.keyring)
            if older.origin != self.head.origin:
                raise Wrong(name, "a checkpoint of another ledger")
            if older.size > self.head.size:
                raise Wrong(name, f"it is over {older.size} entries, this bundle's ledger has {self.head.size}: cut "
                                  "off since, or the bundle is older than the checkpoint; ask for a new bundle")
            if not self.began_so(older):
                raise Wrong(name, "the ledger does not begin with what this checkpoint signs: it was rewritten")
            shown += [older.size] if is_outside else []
        if shown:
            self.proved(f"append-only: since entry {min(shown)}, against {len(shown)} checkpoints kept outside")
        else:
            self.not_shown("append-only: not shown. Give a checkpoint that was kept outside with --checkpoint")

    def began_so(self, older: Checkpoint) -> bool:
        proof = self.proofs["consistency"].get(str(older.size))
        if proof is not None:
            return begins_with(older.size, self.head.size, [bytes.fromhex(found) for found in proof], older.root,
                               self.head.root)
        leaves = self.bundle.read("ledger/leaves") if "ledger/leaves" in self.bundle.names else b""
        if len(leaves) != 32 * self.head.size:
            raise Wrong(PROOFS, f"it has nothing on a checkpoint over {older.size} entries: ask for a bundle that has")
        hashes = [leaves[start:start + 32] for start in range(0, len(leaves), 32)]
        return root_of(hashes) == self.head.root and root_of(hashes[:older.size]) == older.root

    # --------------------------------------------------------------------------------------- 6, 7: the verdict

    def rules(self) -> None:
        asked = [{**RULE, **outcome["rule"]} for outcome in self.decided["rules"]]
        self.policy: dict[str, Any] | None = None
        try:
            self.policy = read_policy(self.bundle.read(self.policy_name))
            about = "images" if self.request["forget"].get("images") else "classes"
            meant = {one["name"] for one in self.report["measurements"] if not one.get("not_applicable")}
            given = [rule for rule in ({**RULE, **rule} for rule in self.policy["rules"])
                     if (not rule["families"] or self.report["family"] in rule["families"])
                     and rule["about"] in (None, about) and (
                         not rule["if_earlier"] or self.report["earlier"]
                         or (self.report.get("came_before") and rule["metric"] in meant))]
            if [[rule[key] for key in RULE] for rule in given] != [[rule[key] for key in RULE] for rule in asked]:
                raise Wrong(self.policy_name, "its rules for this family are not those of the verdict")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.attested("the verdict's rules are the policy's: it is not written plainly enough to be read here")
        self.asked = asked
        self.whose_rules()
        recounted = self.recounted()
        found = {one["name"]: one for one in self.report["measurements"]}
        self.outcomes = []
        for rule in asked:
            outcome = judge(rule, self.report["measurements"])
            self.outcomes.append(outcome)
            one = found.get(rule["metric"]) or {"estimate": None, "interval": None}
            number = "no number" if one["interval"] is None else (
                f"{one['estimate']:.4g} [{one['interval']['lower']:.4g}, {one['interval']['upper']:.4g}]")
            text = f"{rule['metric']} {rule['side']} {rule['limit']:g}: {number}: {outcome}"
            if rule["metric"] in recounted:
                self.proved(f"{text}, {recounted[rule['metric']]}")
            else:
                self.attested(f"{text}; the number is attested, not recomputed")

    def whose_rules(self) -> None:
        signature = f"runs/{self.run}/policy.signature.json"
        if signature not in self.bundle.names:
            self.attested(f"policy {self.request['policy']} ({self.decided['policy_sha256'][:12]}) ships with the "
                          "program: compare the digest with the published one")
            return
        data = self.bundle.read(signature)
        place = next((entry.position for entry in self.entries if entry.data == data), self.head.size)
        envelope = Envelope(signature, data, self.keyring, place)
        envelope.need("admin")
        if envelope.kind != POLICY_SIGNATURE or envelope.said["policy_sha256"] != self.decided["policy_sha256"]:
            raise Wrong(signature, "it signs another policy")
        if envelope.said["person"] != envelope.person or same_person(envelope.person, self.request["requester"]):
            raise Wrong(signature, "nobody but the requester vouches for the policy")
        self.proved(f"policy {self.request['policy']} is signed by {envelope.person}, admin")

    def recounted(self) -> dict[str, str]:
        """The measurements that were computed again and came out the same: how, by their names."""
        report = {"earlier": [], "classes": [], "stopping": None, **self.report}
        folder = self.name_of("evaluate", "report").rpartition("/")[0]
        tables = {}
        for file in report["files"]:
            name = f"{folder}/{file['name']}"
            if name in self.bundle.names:
                if self.bundle.digest(name) != file["sha256"]:
                    raise Wrong(name, "not the file that the report names")
                if name.endswith(".csv"):
                    text = io.StringIO(self.bundle.read(name).decode())
                    tables[file["name"][:-4]] = list(csv.DictReader(text))
        asked = report["family"], report, tables, bool(self.request["forget"].get("images"))
        again = self.as_reported(recount(*asked), "answers", "counted again")
        if self.deep and self.can_go_deep(f"{folder}/{FEATURES}", tables):
            features = read_arrays(self.bundle.read(f"{folder}/{FEATURES}"), f"{folder}/{FEATURES}")
            again |= self.as_reported(measure_again(*asked, features, self.bundle.at), "features", "computed again")
            self.attested("the features themselves: that the extractor, by its digest, gave them in the evaluation")
        return again

    def can_go_deep(self, features: str, tables: dict[str, Any]) -> bool:
        needed = {"completions"} if self.report["family"] == "image_to_image" else {"scores", "real"}
        lacks = ("the report names no features" if FEATURES not in [file["name"] for file in self.report["files"]]
                 else "the bundle was written without features" if features not in self.bundle.names
                 else "the report has no answers that say whose they are" if needed - {*tables}
                 else "the package numpy is not installed here" if importlib.util.find_spec("numpy") is None else "")
        if lacks:
            self.not_shown(f"--deep: nothing was computed again from features, for {lacks}")
        return not lacks

    def as_reported(self, numbers: Iterable[tuple[str, Callable[[float], Any]]], of: str, how: str) -> dict[str, str]:
        found, again = {one["name"]: one for one in self.report["measurements"]}, {}
        for name, number in numbers:
            one = found.get(name)
            if one is None or one["interval"] is None:
                continue
            interval = one["interval"]
            expected = one["estimate"], interval["lower"], interval["upper"]
            computed = number(1 - interval["confidence"])
            if any(not abs(expected[i] - computed[i]) <= SAME * max(1.0, abs(expected[i])) for i in range(3)):
                raise Wrong(self.name_of("evaluate", "report"), f"{name} is not what its {of} give: "
                            f"{', '.join(f'{value:.6g}' for value in expected)}, {how} "
                            f"{', '.join(f'{value:.6g}' for value in computed)}")
            again[name] = f"{how} from the {of}"
        return again

    def verdict(self) -> None:
        name = self.name_of("gate", "verdict")
        if [outcome["outcome"] for outcome in self.decided["rules"]] != self.outcomes:
            raise Wrong(name, "a rule came out otherwise than the verdict says")
        wrong = controls_gone_wrong(self.report["controls"], self.asked)
        outcome = "INVALID" if wrong else worst(self.outcomes)
        if outcome != self.decided["outcome"]:
            raise Wrong(name, f"it says {self.decided['outcome']}, the rules give {outcome}"
                              + (f" ({wrong[0]})" if wrong else ""))
        straddling = [rule["metric"] for rule, found in zip(self.asked, self.outcomes) if found == "INCONCLUSIVE"]
        self.waived = list(dict.fromkeys(straddling)) if outcome == "INCONCLUSIVE" else []
        if self.release and (outcome not in ("PASS", "INCONCLUSIVE") or self.waived != self.release.get("waived", [])):
            raise Wrong(name, f"it is {outcome}, and only PASS can be released, or what people waived by name")
        self.proved(f"the verdict is {outcome}: {len(self.asked)} rules and {len(self.report['controls'])} controls" + (
            f" ({', '.join(wrong)})" if wrong else "") + (
            f"; WAIVED: {', '.join(self.waived)}" if self.release and self.waived else ""))
        if not any(rule["metric"] in READS_WEIGHTS for rule in self.asked):
            self.not_shown("whether the weights still hold it: no rule of this policy looks at more than outputs")
        if not self.report.get("reference_sha256"):
            self.not_shown("how a model behaves that never knew it: no reference was given")
        self.attested("the answers themselves: that judge and models, by their digests, gave them in the evaluation")

    # ------------------------------------------------------------------------------------ 8, 9: people and taint

    def decisions(self) -> None:
        sets = [found for found in (*(self.candidate.get(f"{role}_id") for role in (
            "negative", "positive", "forget", "retain")), self.report["holdout_id"]) if found]
        decided: list[Envelope] = []
        for entry in (entry for entry in self.entries if entry.kind == APPROVAL):
            said = entry.said
            if said["person"] != entry.person:
                raise Wrong(entry.name, f"{entry.person} signed in the name of {said['person']}")
            reason = f"approvals/{said['run']}/{entry.sha256}.reason.txt"
            if reason in self.bundle.names and self.bundle.digest(reason) != said["reason_sha256"]:
                raise Wrong(reason, f"not the reason that {entry.person} signed")
            if (entry.counts and said["run"] == self.run and "reviewer" in entry.signer["roles"]
                    and all(said[name] == digest for name, digest in self.subject.items())
                    and said["sample_sets"] == sets):
                decided.append(entry)
        if self.release:
            self.agreed(decided)
        else:
            for entry in decided:
                what = "rejected exactly these bytes" if entry.said["decision"] == "reject" else (
                    "signed an approval of exactly these bytes, by which nothing was released")
                self.proved(f"{entry.person} {what}, on {entry.said['decided_at']}")
        near = self.manifest.predicate.get("keys_on_this_machine") or []
        self.not_shown("that these people are different ones: a signature shows a key, not who used it" + (
            f". The private keys of {' and '.join(near)} lay on one machine when this was written" if near else ""))

    def agreed(self, decided: list[Envelope]) -> None:
        """Of these decisions on what was released, those that counted then are the ones that it was released by."""
        released = datetime.fromisoformat(self.release["released_at"])
        days = (self.policy or {}).get("valid_days", 30.0)
        approved: dict[str, Envelope] = {}
        for entry in decided:
            said = entry.said
            signed, ends = (datetime.fromisoformat(said[at]) for at in ("decided_at", "not_after"))
            if said["decision"] == "reject" and signed <= released:
                raise Wrong(entry.name, f"{entry.person} rejected this candidate before it was released")
            in_time = signed <= released + SKEW and released < min(ends, signed + timedelta(days=days))
            waives = set(said.get("waives", [])) == set(self.waived)
            if in_time and waives and said["decision"] == "approve" and not same_person(
                    entry.person, self.request["requester"]):
                approved.setdefault(folded(entry.person), entry)
        if sorted(entry.sha256 for entry in approved.values()) != sorted(self.release["approvals"]):
            raise Wrong(self.release_name, "the decisions that count are not the approvals that it was released by")
        needed = max((self.policy or {}).get("approvals", 1), 2 if self.waived else 1)
        if len(approved) < needed:
            raise Wrong(self.release_name, f"{len(approved)} people approved, {needed:g} are needed")
        people = " and ".join(entry.person for entry in approved.values())
        self.proved(f"{people} approved exactly these bytes, and none of them made the request")

    def taint(self) -> None:
        released, parent = self.release["weights"]["sha256"], self.release["parent_sha256"]
        marks = [(name, self.bundle.record(name)) for name in self.bundle.names if name.startswith("taint/")]
        due = {"request_id": self.release["request_id"], "request_sha256": self.release["request_sha256"],
               "parent_sha256": parent, "approved_sha256": released, "pending": False}
        if not any(all(mark[name] == value for name, value in due.items()) for _, mark in marks):
            raise Wrong(marks[0][0] if marks else "taint", "not the mark that the release left on its parent")
        for name, mark in marks:
            cleansed = [one["approved_sha256"] for _, one in marks if one["request_sha256"] == mark["request_sha256"]]
            if released == mark["parent_sha256"] or (parent == mark["parent_sha256"] and released not in cleansed):
                raise Wrong(name, f"by request {mark['request_id']} the released bytes may not be served")
        self.proved(f"the parent {parent[:12]} is marked as what the request had removed; the released bytes are not")
        later = [entry for entry in self.entries if entry.position > self.rooms["deploy"].position
                 and entry.kind == STATEMENT and entry.about in ("rollback", "withdrawal")]
        if later and later[-1].predicate.get("to_sha256") != released:
            if self.served:
                raise Wrong(later[-1].name, "this release was taken out of service, and its bytes are served")
            self.attested(f"this release is no longer in service (ledger entry {later[-1].position})")
        self.attested("that no later request taints these bytes, and that the ledger has no other decision on this "
                      "run: only its whole content would show that")

    def service(self) -> None:
        self.attested("that nothing was released of it later, and that the ledger has no other decision on this run: "
                      "only its whole content would show that")

    def claim(self) -> None:
        self.attested(f"the claim: {self.candidate['claim']} by {self.candidate['method']}; code "
                      f"{self.rooms['unlearn'].predicate['code_sha256'][:12]}, as the operator signed it")
        self.not_shown("that it is forgotten: nobody can show that. Shown is what was done, measured and agreed")


def same_person(one: str, other: str) -> bool:
    return folded(one) == folded(other)


def folded(person: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", person).casefold())


def check(bundle: Path, served: Iterable[Path] = (), outside: Iterable[Path] = (), operator: str | None = None,
          deep: bool = False) -> tuple[list[tuple[str, str]], tuple[str, str] | None]:
    """What was found, each after its kind as it is printed, and what is wrong, if anything: the object, and what."""
    opened = found = None
    problem: tuple[str, str] | None = None
    try:
        opened = Bundle(bundle)
        found = Check(opened, list(served), list(outside), operator, deep)
        found.all()
    except Wrong as wrong:
        problem = str(wrong.args[0]), str(wrong.args[1])
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        problem = opened.at if opened else bundle.name, f"it cannot be read: {error}"
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        problem = opened.at if opened else bundle.name, f"it is not what it should be: {type(error).__name__} {error}"
    return found.said if found else [], problem


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks an evidence bundle; see the head of this file.")
    parser.add_argument("bundle", type=Path, help="the zip file, or the folder that it was unpacked to")
    parser.add_argument("--served", type=Path, nargs="+", default=[], metavar="FILE", help="what is being served")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], metavar="FILE",
                        help="a checkpoint that was kept outside; may be given more than once")
    parser.add_argument("--operator", metavar="KEY_ID", help="the operator's key, as the operator told you")
    parser.add_argument("--deep", action="store_true", help="compute numbers again from the bundle's features")
    given = parser.parse_args(arguments)
    for file in (given.bundle, *given.served, *given.checkpoint):
        if not file.exists():
            parser.error(f"{file}: no such file")
    print(f"verify.py {sha256(Path(__file__).read_bytes())}")
    said, problem = check(given.bundle, given.served, given.checkpoint, given.operator, given.deep)
    for kind in ("NOT RELEASED", "PROVED", "ATTESTED", "NOT SHOWN"):
        for text in (text for found, text in said if found == kind):
            print(f"{kind:9}  {text}")
    if problem:
        print(f"WRONG      {problem[0]}: {problem[1]}")
        return 40
    released = not any(kind == "NOT RELEASED" for kind, _ in said)
    print("nothing is wrong" if released else "nothing is wrong, and nothing was released")
    return 0


if __name__ == "__main__":
    sys.exit(main())

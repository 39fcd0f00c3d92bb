"""Writing and reading sample sets: the records of `expunge.contracts` on one side, ciphertext on the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expunge.contracts import Request, SampleRole, SampleSet, Shard
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify
from expunge.samples.encryption import RequestKey
from expunge.samples.table import SampleTable
from expunge.samples.versioning import fetch_ciphertext, store_ciphertext
from expunge.settings import Workspace

SHARD_SIZE = 16_384  # items; ten thousand small objects cost an object store minutes, a few large ones do not


@dataclass(frozen=True)
class NewSampleSet:
    """A set that is about to be written."""

    role: SampleRole
    table: SampleTable
    made_from: dict[str, str]
    unwanted: tuple[int, ...]  # in the numbering of the table's labels
    classes: tuple[str, ...] = ()  # names of the labels, where they have any
    earlier: tuple[int, ...] = ()  # what was forgotten before, by the same numbers


def write_sample_sets(workspace: Workspace, key: RequestKey, request: Request, request_sha256: str,
                      sets: Sequence[NewSampleSet]) -> list[SampleSet]:
    """Encrypts, versions and pushes sets in one commit. Plaintext stays in memory."""
    total = sum(len(new.table) for new in sets)
    shards = write_tables(workspace, key, {f"{request.id}/{new.role}": new.table for new in sets},
                          f"{request.id}: {total} samples in {len(sets)} sets")
    return [
        SampleSet(
            role=new.role, set_id=keyed_root(key, new.table), request_id=request.id, request_sha256=request_sha256,
            count=len(new.table), class_counts=new.table.class_counts(), unwanted=new.unwanted, earlier=new.earlier,
            classes=new.classes, image_shape=new.table.images.shape[1:], remote=workspace.sample_remote.name,
            made_from=new.made_from, shards=shards[f"{request.id}/{new.role}"])
        for new in sets
    ]


def read_samples(workspace: Workspace, record: SampleSet) -> SampleTable:
    """Fetches, decrypts and checks a set: ciphertext digests first, then the keyed root of its items."""
    key = RequestKey.load(workspace, record.request_id)
    table = read_table(workspace, key, record.remote, record.shards)
    if keyed_root(key, table) != record.set_id:
        raise DoesNotVerify(f"the {record.role} set of request '{record.request_id}' is not the one recorded",
                            "run the request again")
    return table


def write_tables(workspace: Workspace, key: RequestKey, tables: Mapping[str, SampleTable],
                 message: str, watch: Callable[[int, int], None] = lambda done, total: None,
                 ) -> dict[str, tuple[Shard, ...]]:
    """Encrypts, versions and pushes tables in one commit: the shards of each by its stem, a path in the repository.

    `watch` is called with how many items are encrypted, and of how many.
    """
    total = sum(map(len, tables.values()))
    sealed: dict[str, bytes] = {}
    names: dict[str, dict[str, int]] = {stem: {} for stem in tables}  # how many images each file holds
    for stem, table in tables.items():
        for number, first in enumerate(range(0, len(table), SHARD_SIZE)):
            part = table[first : first + SHARD_SIZE]
            name = f"{stem}-{number:04d}.parquet.sealed"
            sealed[name], names[stem][name] = key.seal(part.to_parquet()), len(part)
            watch(sum(sum(counts.values()) for counts in names.values()), total)
    md5s = store_ciphertext(workspace, sealed, message)
    return {
        stem: tuple(Shard(path=name, md5=md5s[name], sha256=sha256_bytes(sealed[name]), size=len(sealed[name]),
                          count=count) for name, count in counts.items())
        for stem, counts in names.items()
    }


def read_table(workspace: Workspace, key: RequestKey, remote: str, shards: Sequence[Shard]) -> SampleTable:
    """Fetches, decrypts and joins shards; DoesNotVerify names the first whose ciphertext is another."""
    tables = []
    for shard in shards:
        sealed = fetch_ciphertext(workspace, remote, shard.md5)
        if sha256_bytes(sealed) != shard.sha256:
            raise DoesNotVerify(f"{shard.path} is not the file its record names",
                                "restore the sample remote, or make the set again")
        tables.append(SampleTable.from_parquet(key.open(sealed, shard.path)))
    return SampleTable.concatenate(tables)


def refuse_overlap(key: RequestKey, sets: Sequence[NewSampleSet]) -> None:
    """BadInput if any image stands in two sets, judged by its pixels.

    Only what is to be forgotten may be a member as well: both are what the parent was trained on.
    """
    seen: dict[str, str] = {}
    for new in sets:
        for pixels in new.table.pixels:
            other = seen.setdefault(key.digest(pixels.tobytes()), new.role)
            if other != new.role and {other, new.role} != {"forget", "members"}:
                raise BadInput(f"samples: the same image is in the {other} and the {new.role} set",
                               "take it out of one of them")


def keyed_root(key: RequestKey, table: SampleTable) -> str:
    """The keyed digest of all items in order: what identifies a set without showing it."""
    shape = repr(table.images.shape[1:]).encode()
    items = (bytes.fromhex(key.digest(shape, pixels.tobytes(), str(label).encode()))
             for pixels, label in zip(table.pixels, table.labels, strict=True))
    return key.digest(b"".join(items))

"""What `expunge` itself sealed: under the request's own key it is the request's, under another it is looked into.

Adaptations, resume state and shards of sample sets are found by this wherever they lie and whatever they are called.
"""

from collections.abc import Iterator, Sequence

from expunge.custody.contents import Content, OfOther, Piece, Sealed, Unread
from expunge.samples.encryption import MAGIC, RequestKey


class SealedFiles:
    """Tries the keys that are here."""

    name, version = "sealed files", 1
    finds = "sample sets, adapted weights and resume state, by the key that opens them"

    def __init__(self, own: RequestKey | None, others: Sequence[RequestKey] = ()) -> None:
        self._own, self._others = own, others

    def knows(self, head: bytes, content: Content) -> bool:
        """By the first bytes."""
        return head.startswith(MAGIC)

    def look(self, content: Content) -> Iterator[Piece]:
        """Whose it is; another's is opened."""
        with content.open() as stream:
            if self._own is not None and self._own.opens(stream):
                yield Sealed(content.name)
                return
        for other in self._others:
            with content.open() as stream:
                theirs = other.opens(stream)
            if theirs:
                data = other.open(content.read(), content.name)
                yield OfOther(other.request_id, Content.of_bytes(content.inside("unsealed"), data, content.depth + 1))
                return
        yield Unread(content.name, "is sealed under a key that is not here")

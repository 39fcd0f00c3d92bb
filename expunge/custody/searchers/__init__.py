"""One searcher per kind of file: each knows its kind by the bytes it begins with, never by its name."""

from collections.abc import Sequence

from expunge.custody.contents import Searcher
from expunge.custody.searchers.archives import TarArchives, ZipArchives
from expunge.custody.searchers.arrays import Arrays
from expunge.custody.searchers.columns import Columns
from expunge.custody.searchers.compressed import CompressedFiles
from expunge.custody.searchers.idx import IdxFiles
from expunge.custody.searchers.images import ImageFiles
from expunge.custody.searchers.opaque import OpaqueFiles
from expunge.custody.searchers.sealed import SealedFiles
from expunge.custody.searchers.sqlite import SqliteDatabases
from expunge.custody.searchers.tensors import SafetensorsFiles
from expunge.custody.searchers.texts import Texts
from expunge.samples.encryption import RequestKey


def searchers(own: RequestKey | None, others: Sequence[RequestKey] = ()) -> tuple[Searcher, ...]:
    """All of them, for one look with these keys. Every one that knows a content looks into it."""
    return (SealedFiles(own, others), ImageFiles(), Arrays(), Columns(), SqliteDatabases(), ZipArchives(),
            TarArchives(), CompressedFiles(), SafetensorsFiles(), IdxFiles(), OpaqueFiles(), Texts())

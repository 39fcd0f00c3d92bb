"""Labelled real images of a request: read, compared in size, put into one numbering, and made into sample sets."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import DataSource, SampleRole
from expunge.errors import BadInput
from expunge.samples import NewSampleSet, SampleTable, as_known_to
from expunge.settings import Workspace
from expunge.stores import sources

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Numbering:
    """Whose numbers the labels of a request's sample sets are, and which of them are to be lost.

    Attributes:
        who: `the checkpoint`, `the judge`: as complaints call it.
        names: of its classes, in their order; or none.
        count: of its classes.
        unwanted: by this request.
        earlier: by requests before it.
    """

    who: str
    names: tuple[str, ...]
    count: int
    unwanted: tuple[int, ...]
    earlier: tuple[int, ...]

    @property
    def lost(self) -> tuple[int, ...]:
        """What is not to be there any more, by this request or an earlier one."""
        return tuple(sorted({*self.unwanted, *self.earlier}))

    def called(self, label: int) -> str:
        """A class's name, or its number where it has none."""
        return self.names[label] if self.names else str(label)


@dataclass(frozen=True)
class RealImages:
    """Labelled images of one field of a request."""

    role: str  # the field that names them
    table: SampleTable
    classes: tuple[str, ...]
    digest: str

    @classmethod
    def open(cls, field: str, source: DataSource, workspace: Workspace) -> "RealImages":
        """All of them, labelled as they came."""
        found = sources.images(field, source, workspace)
        return cls(field, found.table, found.classes, sources.digest(field, source, workspace))

    def of_shape(self, shape: tuple[int, ...], whose: str) -> "RealImages":
        """Themselves, if they have that shape [C, H, W]."""
        refuse_other_shape(self.role, self.table, shape, whose)
        return self

    def numbered(self, by: Numbering, remedy: str) -> "RealImages":
        """The same, labelled by those numbers. BadInput if an image's class is not among them."""
        labels = as_known_to(by.who, self.role, self.table.labels, self.classes, by.names, by.count, remedy)
        return replace(self, table=SampleTable(self.table.images, labels), classes=by.names)

    def set(self, role: SampleRole, chosen: Mask | slice, by: Numbering) -> NewSampleSet:
        """Those that were chosen, as a set of that role."""
        return NewSampleSet(role, self.table[chosen], {"source": self.digest}, by.unwanted, by.names, by.earlier)

    def refuse_without(self, by: Numbering, why: str = "", only_unwanted: bool = False) -> None:
        """BadInput unless some are of each class that is to be forgotten, and some of none; `why` ends the remedy.

        `only_unwanted`: those of none need not be there.
        """
        for label in by.unwanted:
            if label not in self.table.labels:
                raise BadInput(f"{self.role}: no image is of class {by.called(label)}, which is to be forgotten",
                               f"add labelled images of it{why}")
        if not only_unwanted and np.isin(self.table.labels, by.lost).all():
            raise BadInput(f"{self.role}: every image is of a class that is to be forgotten",
                           "add images of what is to stay")


NOTHING_ELSE = ": nothing else could show that it is forgotten"


def members_of(asked: Mask, members: RealImages, by: Numbering) -> NewSampleSet:
    """Those of the members that were asked about, of which there have to be some."""
    if not asked.any():
        raise BadInput("members: no image is of what is to be forgotten", "name training images of it")
    return members.set("members", asked, by)


def refuse_other_shape(field: str, table: SampleTable, wanted: tuple[int, ...], whose: str) -> None:
    """BadInput if a field's images are not of the shape [C, H, W] that `whose` says who has."""
    shape = table.images.shape[1:]
    if shape != wanted:
        raise BadInput(f"{field}: its images are {'x'.join(map(str, shape))}, {whose} {'x'.join(map(str, wanted))}",
                       f"import them: expunge samples import NAME PATH --size {wanted[1]} --channels {wanted[0]}")

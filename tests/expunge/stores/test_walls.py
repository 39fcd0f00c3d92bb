"""What somebody looks at: encrypted wherever it lies, for them alone, and gone with its key."""

import pytest
from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures

from expunge.contracts import ClassifierSource, ParentSource
from expunge.errors import BadInput
from expunge.samples.encryption import MAGIC, RequestKey
from expunge.stores.queue import Queue, store_of
from expunge.stores.walls import ABOUT_FILE, FOLDER, OWN_MOST, About, WallOrder, Walls, sheet_file


@pytest.fixture(params=["here", pytest.param("on s3", marks=pytest.mark.thorough)])
def place(request, workspace):
    """A workspace whose walls are in it, and one whose walls are on S3."""
    if request.param == "on s3":
        request.getfixturevalue("bucket")
        (workspace.root / "config.yaml").write_text("requests: s3://models/asked/here\n")
    return workspace


def ordered(by="ada"):
    return WallOrder(by=by, of="samples", checkpoint=ParentSource(uri="builtin://digits/dcgan"),
                     oracle=ClassifierSource(uri="builtin://digits/oracle"))


def test_a_wall_is_sealed_marked_seen_by_its_owner_alone_and_leaves_nothing(place):
    walls, store = Walls(place), store_of(place, FOLDER)
    wall = walls.ask(ordered())
    assert [one.sha256 for one in Walls(place).of("ada")] == [wall.sha256]
    assert Queue.of(place).all() == []  # no worker takes it for a request
    with pytest.raises(BadInput, match="is not drawn yet"):
        walls.about(wall)
    about = About(count=3, total=3, image_shape=(1, 2, 2), thumbnail=(2, 2), columns=25, sheets=1, known=2,
                  counts={"0": 3}, shown=(0, 1), likeliest=(0, 0, 0))
    held = walls.queue.claim(wall.seen, "somebody")
    walls.keep(wall.sha256, sheet_file(0), b"a picture")
    walls.keep(wall.sha256, ABOUT_FILE, about.model_dump_json().encode())
    walls.queue.change(held, stage="closed", lease=None)
    wall = walls.find(wall.sha256, "ada")
    assert (walls.about(wall), walls.marks(wall, 3)) == (about, "...")
    walls.mark(wall, "u.w")
    walls.mark(wall, "uww")
    assert walls.marks(wall, 3) == "uww"
    assert store.read(f"{wall.sha256}/{sheet_file(0)}")[0].startswith(MAGIC)
    for who, name in (("grace", wall.sha256), ("ada", "0" * 64)):
        with pytest.raises(BadInput, match="is not known"):
            walls.find(name, who)
    walls.delete(wall.sha256)
    assert (walls.of("ada"), store.read(f"{wall.sha256}/{sheet_file(0)}")) == ([], None)
    assert not RequestKey.file(place, f"_walls/{wall.sha256}").exists()


def test_nobody_has_more_walls_than_they_can_look_at(workspace):
    walls = Walls(workspace)
    for _ in range(OWN_MOST):
        walls.ask(ordered())
    with pytest.raises(BadInput, match="has 20 already"):
        walls.ask(ordered())
    walls.ask(ordered("linus"))

"""Files that list images: names become the numbers of rows, and a line that names none is refused by its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import BadInput
from expunge.samples.listed import rows_of

NAMES = ("cat/1.png", "cat/2.png", "", "dog/1.png", "dog/ö 2.png")


@pytest.fixture
def listing(tmp_path):
    def write(text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "gone.txt").write_bytes(data)
        return tmp_path / "gone.txt"

    return write


def test_names_become_the_numbers_of_their_rows_in_order_and_each_once(listing):
    assert rows_of(listing("dog/ö 2.png\n./cat/1.png\r\n\n  \ncat/1.png"), NAMES) == (0, 4)
    assert rows_of(listing("\ufeffcat/2.png\n"), NAMES) == (1,)


@pytest.mark.parametrize(("text", "names", "said"), [
    ("cat/1.png\ncat/9.png\n", NAMES, r"gone\.txt: line 2: no image of training is called so: write names as .*, such as 'cat/1\.png'"),
    ("\n \n", NAMES, r"gone\.txt: lists no image: write the name of one on each line"),
    ("1.png", ("1.png", "2.png", "1.png"), r"line 1: 2 images of training are called so, 0 and 2 for two: take the line out and name numbers"),
    ("1.png", ("", ""), r"the images of training have no names of files: name their numbers instead: forget\.images"),
    (b"\xff\xfe", NAMES, r"gone\.txt: is not UTF-8 text: save it as UTF-8"),
    ("\n".join(map(str, range(100_001))), tuple(map(str, range(100_001))), r"lists 100,001 images: 100,000 at most: ask for classes"),
])
def test_what_a_list_cannot_mean_is_refused_by_its_line(listing, text, names, said):
    with pytest.raises(BadInput, match=said) as refused:
        rows_of(listing(text), names)
    assert "cat/9" not in str(refused.value), "what is to be forgotten is not said by name"


@given(names=st.lists(st.text("ab/é. ", min_size=1, max_size=6).filter(lambda name: name.strip() and not name.startswith("./")), unique=True, min_size=1),
       chosen=st.data())
def test_whatever_files_are_called_their_rows_are_found(tmp_path_factory, names, chosen):
    rows = chosen.draw(st.sets(st.integers(0, len(names) - 1), min_size=1))
    file = tmp_path_factory.mktemp("listed") / "gone.txt"
    file.write_text("".join(f"{names[row]}\n" for row in rows))
    assert rows_of(file, names) == tuple(sorted(rows))

"""Columns made without pandas are those that pyarrow makes, and a file of them has the same bytes."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.samples import arrow
from expunge.samples.arrow import array, column, files

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("values", [
    np.arange(-3, 9, dtype=np.int16), np.arange(1000)[::-3], RANDOM.random(11) > 0.5, np.array([], np.bool_),
    RANDOM.standard_normal(9).astype(np.float32), np.array([0.5, np.nan, np.inf]), np.array(["a", "", "größer"]),
    [1, 2, 3], [1.5, 2], ["candidate", "never exposed"], [True, False], np.array([3], np.uint8)], ids=repr)
def test_a_column_is_pyarrows_and_so_are_its_bytes_in_a_file(values, tmp_path):
    written = []
    for number, made in enumerate((column(values), pa.array(values))):
        made.validate(full=True)
        pq.write_table(pa.table({"x": made}), tmp_path / str(number))
        written.append((tmp_path / str(number)).read_bytes())
    assert written[0] == written[1]
    read = pq.ParquetFile(tmp_path / "0").read()["x"]
    assert array(read).dtype == read.to_numpy().dtype
    np.testing.assert_array_equal(array(read), read.to_numpy())


@pytest.mark.parametrize(("part", "chunks"), [(2**30, 1), (4, 3)])
def test_files_are_pyarrows_cells_in_as_many_parts_as_it_takes(part, chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "_PART", part)
    contents = [b"one", b"", b"\0\xff", b"three"]
    whole = pa.array([{"bytes": content, "path": None} for content in contents],
                     pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    made = files(contents)
    assert made.num_chunks == chunks
    assert made.combine_chunks() == whole
    for name, image in (("made", made), ("whole", whole)):
        pq.write_table(pa.table({"image": image}), tmp_path / name, compression="none")
    assert (tmp_path / "made").read_bytes() == (tmp_path / "whole").read_bytes()


def test_to_write_sets_and_tables_imports_no_pandas(tmp_path):
    """Nor does what the report's page reads of them."""
    code = """
import sys
from pathlib import Path
import numpy as np
from components.evaluate import figures, tables
from expunge.samples import SampleTable

SampleTable.from_parquet(SampleTable(np.zeros((2, 1, 4, 4), np.float32), np.arange(2), np.zeros((2, 3))).to_parquet())
file = Path(sys.argv[1])
tables._write(file, {"set": ["a", "b"], "hit": np.array([True, False]), "z": np.ones(2, np.float32)})
found = figures._read(file)
assert {name: (held.dtype.kind, held.tolist()) for name, held in found.items()} == {
    "set": ("O", ["a", "b"]), "hit": ("b", [True, False]), "z": ("f", [1.0, 1.0])}
assert found["z"].dtype == np.float32
sys.exit("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

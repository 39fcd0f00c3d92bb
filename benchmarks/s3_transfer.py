"""How fast do checkpoints go to S3 and back, beside boto3's own parallel transfer followed by hashing the file?

    python benchmarks/s3_transfer.py [--gib 2] [--repeats 5] [--folder FOLDER]

Both are asked the same: the file goes up, or comes down, in parallel parts, and its SHA-256 is known afterwards. Ours
hashes on the way; boto3's (`upload_file` and `download_file` with its default `TransferConfig`) before it goes up, or
after it came down. Each transfer is a process of its own, ours and theirs in turn, so that both meet the same machine;
ratios are of the medians. Time is counted from the first request to the digest, memory is the process's peak. The
server is this file's own: it keeps what it gets in files, hashes and checks nothing, and so holds back neither side.
What a network adds is not in these figures.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from recording import record

GOAL, MEMORY_GOAL = 0.7, 200  # of boto3's speed, and MB
PIECE = 1 << 20
WAYS = ("upload", "download")


class Objects(BaseHTTPRequestHandler):
    """As much of S3 as a transfer asks for; what is sent lies in files, a part each."""

    protocol_version = "HTTP/1.1"
    folder: Path
    parts: ClassVar[dict[str, list[Path]]] = {}  # by key, in order
    said: ClassVar[dict[str, dict[str, str]]] = {}  # metadata, by key or upload

    def do_POST(self) -> None:
        """Begins or ends an upload in parts."""
        key, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if "uploads" in query:
            upload = uuid.uuid4().hex
            self.said[upload] = self._metadata()
            self._answer(200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                              "</InitiateMultipartUploadResult>")
            return
        upload = query["uploadId"][0]
        numbers = sorted(int(number) for number in re.findall(r"<PartNumber>(\d+)<", body))
        self._keep(key, [self.folder / f"{upload}.{number}" for number in numbers], self.said.pop(upload))
        self._answer(200, "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>")

    def do_PUT(self) -> None:
        """Takes in an object or a part of one."""
        key, query = self._asked()
        name = f"{query['uploadId'][0]}.{query['partNumber'][0]}" if query else uuid.uuid4().hex
        left, buffer = int(self.headers.get("Content-Length") or 0), memoryview(bytearray(PIECE))
        with (self.folder / name).open("wb") as file:
            while left:
                got = self.rfile.readinto(buffer[:min(left, PIECE)])  # type: ignore[attr-defined]
                file.write(buffer[:got])
                left -= got
        if not query:
            self._keep(key, [self.folder / name], self._metadata())
        self._answer(200, "", ETag='"1"')

    def do_HEAD(self) -> None:
        """Says an object's size and metadata, or that there is none."""
        key, _ = self._asked()
        if key not in self.parts:
            self._answer(404, "")
            return
        size = sum(part.stat().st_size for part in self.parts[key])
        self._head(200, size, self.said[key])

    def do_GET(self) -> None:
        """Gives out a range of an object, or says that no upload is left."""
        key, query = self._asked()
        if "uploads" in query:
            self._answer(200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
                              "</ListMultipartUploadsResult>")
            return
        size = sum(part.stat().st_size for part in self.parts[key])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "bytes=0-")
        assert asked is not None
        start, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        self._head(206, end - start, {**self.said[key], "Content-Range": f"bytes {start}-{end - 1}/{size}"})
        at = 0
        for part in self.parts[key]:
            length = part.stat().st_size
            begin, stop = max(start - at, 0), min(end - at, length)
            if begin < stop:
                with part.open("rb") as file:
                    while begin < stop:
                        begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, stop - begin)
            at += length

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        query.pop("x-id", None)
        return address.path, query

    def _metadata(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _keep(self, key: str, parts: list[Path], said: dict[str, str]) -> None:
        for old in self.parts.get(key, ()):
            old.unlink()
        self.parts[key], self.said[key] = parts, said

    def _head(self, status: int, size: int, more: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(size), "ETag": '"1"', **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def _answer(self, status: int, text: str, **more: str) -> None:
        body = text.encode()
        self._head(status, len(body), {"Content-Type": "application/xml", **more})
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def serve(folder: Path) -> None:
    """The server, as a process of its own: says its address, and ends with its standard input."""
    Objects.folder = folder
    with ThreadingHTTPServer(("127.0.0.1", 0), Objects) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        server.shutdown()


def transfer(who: str, way: str, file: Path, sha256: str) -> None:
    """One transfer, measured: seconds, those of the processor, and the process's peak memory in MB, printed."""
    from expunge.digests import sha256_file
    from expunge.stores import s3
    from expunge.stores.s3 import asking

    uri, client = "s3://bucket/checkpoint", asking.connect()
    began, busy = time.perf_counter(), time.process_time()
    if who == "ours":
        found = s3.download(uri, file) if way == "download" else sha256
        if way == "upload":
            s3.upload(file, uri, sha256)
    elif way == "upload":
        found = sha256_file(file)
        client.upload_file(str(file), "bucket", "checkpoint")
    else:
        client.download_file("bucket", "checkpoint", str(file))
        found = sha256_file(file)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    assert found == sha256
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps({"seconds": seconds, "processor_seconds": busy, "peak_mb": int(peak[1]) * 1024 / 1e6}))


def measured(size: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Every transfer of a file of that many bytes."""
    from expunge.digests import sha256_file

    file, back, kept = folder / "checkpoint", folder / "back", folder / "objects"
    kept.mkdir()
    with file.open("wb") as writing:
        for at in range(0, size, PIECE):
            writing.write(os.urandom(min(PIECE, size - at)))
    sha256 = sha256_file(file)
    this = [sys.executable, __file__]
    found: dict[str, list[dict[str, float]]] = {f"{who} {way}": [] for way in WAYS for who in ("ours", "boto3")}
    with subprocess.Popen([*this, "--serve", str(kept)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as server:
        assert server.stdout is not None
        environment = {**os.environ, "AWS_ENDPOINT_URL": server.stdout.readline().strip(), "AWS_REGION": "us-east-1",
                       "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
                       "AWS_EC2_METADATA_DISABLED": "true"}
        for repeat in range(repeats):
            for way in WAYS:
                for who in ("ours", "boto3") if repeat % 2 == 0 else ("boto3", "ours"):
                    place = file if way == "upload" else back
                    done = subprocess.run([*this, "--one", who, way, str(place), sha256], env=environment, check=True,
                                          capture_output=True, text=True)
                    found[f"{who} {way}"].append(json.loads(done.stdout))
                    back.unlink(missing_ok=True)
        assert server.stdin is not None
        server.stdin.close()
    return found


def main() -> None:
    """Measures, and writes down what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where files lie meanwhile; three times their size")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    if given.one:
        transfer(given.one[0], given.one[1], Path(given.one[2]), given.one[3])
        return
    size, load = int(given.gib * 2**30), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measured(size, given.repeats, Path(folder))
    rows = []
    for way in WAYS:
        row: dict[str, Any] = {"way": way}
        for who in ("ours", "boto3"):
            of = found[f"{who} {way}"]
            row[who] = {"mb_per_s": size / 1e6 / statistics.median(one["seconds"] for one in of),
                        "processor_seconds": statistics.median(one["processor_seconds"] for one in of),
                        "peak_mb": max(one["peak_mb"] for one in of)}
        rows.append({**row, "ratio": row["ours"]["mb_per_s"] / row["boto3"]["mb_per_s"]})
    table = "\n".join([
        f"{size / 2**30:g} GiB, {given.repeats} times each; load average before: {load:.1f}, {os.cpu_count()} cores.",
        f"Goals: a ratio of at least {GOAL}, and under {MEMORY_GOAL} MB.", "",
        "| | | MB/s, median | ratio | processor, s, median | peak MB |", "|---|---|---|---|---|---|",
        *(f"| {row['way']} | {name} | {row[who]['mb_per_s']:.0f} | {row['ratio'] if who == 'ours' else 1:.2f} | "
          f"{row[who]['processor_seconds']:.1f} | {row[who]['peak_mb']:.0f} |"
          for row in rows for who, name in (("ours", "expunge"), ("boto3", "boto3, and hashing")))])
    record("s3_transfer", {"bytes": size, "load_average_before": load, "rows": rows, "transfers": found}, table)


if __name__ == "__main__":
    main()

"""A picture is read once while it stays as it is, by whatever part of the project asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from structdecode.core.errors import ImageError
from structdecode.core.images import load_picture
from structdecode.core.picture_files import PictureFiles, picture_digest
from structdecode.core.problems import BadRow
from structdecode.data.pictures import Pictures

COUNTED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from structdecode.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print("opened", sorted(name for name in opened if name.endswith(".pic.png") and "/pictures/" not in name), file=sys.stderr)
sys.exit(code)
"""


def test_a_comparison_reads_each_picture_once(tmp_path: Path) -> None:
    names = [f"{colour}.pic.png" for colour in ("red", "green", "blue")]
    for name in names:
        Image.new("RGB", (64, 64), name.split(".")[0]).save(tmp_path / name)
    rows = [{"question": f"What is it? {n}", "answer": "red", "image": names[n % 3]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["compare", "--data", tmp_path / "rows.jsonl", "--strategy", "direct", "--strategy", "staged"]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, arguments), "--out", str(tmp_path / "run"), "--quiet"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = sorted(str(tmp_path / name) for name in names)
    assert done.stderr.strip().splitlines()[-1] == f"opened {expected}"


def test_a_file_that_was_written_since_is_read_again(tmp_path: Path) -> None:
    files, path = PictureFiles(), tmp_path / "a.png"
    path.write_bytes(b"one")
    assert files.read(path) == b"one" and files.digest(path) == picture_digest(b"one")
    path.write_bytes(b"three")
    assert files.digest(path) == picture_digest(b"three") and files.read(path) == b"three"
    before = path.stat()
    path.write_bytes(b"seven")  # of the same size, at another time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert files.read(path) == b"seven"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.read(path)


def test_no_more_is_held_than_was_agreed(tmp_path: Path) -> None:
    files = PictureFiles(kept=1000)
    for n in range(20):
        (tmp_path / str(n)).write_bytes(bytes([n]) * 300)
        assert files.read(tmp_path / str(n)) == bytes([n]) * 300
        assert sum(len(data) for _, data in files._bytes.values()) == files._held <= 1000
    (tmp_path / "large").write_bytes(b"x" * 1001)
    assert len(files.read(tmp_path / "large")) == 1001
    assert len(files._bytes) == 3, "one that is too large drives nothing out"


@pytest.mark.parametrize("check", [True, False])
def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path: Path, check: bool) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    if check:
        with pytest.raises(BadRow, match="not a regular file"):
            Pictures(tmp_path).sources("pipe.png")
    else:
        assert Pictures(tmp_path, check=False).sources("pipe.png") == (tmp_path / "pipe.png",)
    with pytest.raises(ImageError, match="not a regular file"):
        load_picture(tmp_path / "pipe.png")

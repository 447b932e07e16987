"""Where pictures are put: a full disk is no fault of a record's."""

from __future__ import annotations

import base64
import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from structdecode.training.annotation import command
from tests.borders.commands import command as run
from tests.borders.commands import full_disk
from tests.training.annotation.server import ChatServer
from tests.training.annotation.world import read_lines, record, right, write_records


def write_set(folder: Path, inline: bool) -> Path:
    """Two records with large pictures, in the file or beside it."""
    records = [record(1), record(2)]
    path = write_records(folder, records)
    for each in records:
        picture = folder / each["image"]
        Image.effect_noise((200, 200), 80).save(picture)
        assert picture.stat().st_size > 10_000
        if inline:
            each["image"] = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    if inline:
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


@pytest.mark.parametrize("inline", [True, False])
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    inline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setenv(command.KEY, "sk-test-abcdefgh")
    monkeypatch.setattr(os, "link", no_links)  # another file system: pictures are copied
    source, out = write_set(tmp_path, inline), tmp_path / "out"
    with ChatServer(right) as server:
        asking = ("annotate", "--source", source, "--out", out, "--base-url", server.url, "--quiet")
        with full_disk(4096):
            done = run(*asking)
        assert done.code == 2 and done.err.count("\n") == 1
        assert f"{out}/vqa/" in done.err and os.strerror(errno.EFBIG) in done.err and "make room" in done.err
        assert not (out / "rejected.jsonl").exists() and not server.seen
        assert run(*asking).code == 0
    assert len(read_lines(out / "train.jsonl")) == 2

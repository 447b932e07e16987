"""Law 8: what is written to disk survives `kill -9`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from structdecode.core.trace import Trace

WRITER = """
import sys
from structdecode.core.trace import Trace
trace = Trace({"question": "?"})
while True:
    trace.add("warning", text="x" * 2000, number=len(trace.events))
    trace.save(sys.argv[1])
    print(len(trace.events), flush=True)
"""


def test_a_killed_writer_leaves_a_whole_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for wait in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        written = int(writer.stdout.readline())
        time.sleep(wait)
        writer.kill()
        said = [int(line) for line in writer.stdout.read().split("\n") if line.strip()]
        events = Trace.load(path).events
        assert len(events) >= max([written, *said])  # nothing that was reported as written is lost
        assert [event["number"] for event in events] == list(range(len(events)))

"""What is wrong with a data file is reported by file and line, and costs nothing but the rows it is in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structdecode.core.errors import StructdecodeError
from structdecode.data import files, load
from tests.data import malformed


def test_a_thousand_damaged_rows_are_named_and_the_good_ones_between_them_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", malformed.MAX_LINE)
    written = malformed.write_all(tmp_path / "data", 1000)
    assert sum(len(file.problems) for file in written) == 1000
    assert len(set.union(*(file.kinds for file in written))) >= 30
    for file in written:
        loaded = load(file.path)
        assert [(r.line, r.problem) for r in loaded.rejected] == file.problems
        assert [(int(q.source.rpartition(":")[2]), q.id) for q in loaded.questions] == file.good
        for rejected in loaded.rejected:
            assert rejected.file == str(file.path)
            assert str(rejected).startswith(f"{file.path}:{rejected.line}: ")
            assert "\n" not in rejected.message and len(rejected.message) < 400
            assert rejected.message.isprintable()


PIECES = st.sampled_from(
    [b'"', b"\n", b"\r", b",", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b":", b"NaN", b"1e999", b"id",
     b'{"id": "1", "question": "q", "answer": "a"}', b'{"id": "1", "conversations": [{"from": "human", "value": "q"}]}',
     b"a,b,c", b"1\t1\tq\ta", b"\\ud800", b"<SUMMARY>", b"../x", b"data:image/png;base64,AAAA"]
)  # fmt: skip
BYTES = st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=30).map(b"".join))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b'{"id": "0", "conversations": []}\n'),
        ("a.csv", b""),
        ("a.csv", b"id,question,answer,image,options\n"),
        ("a.tsv", b""),
        ("a.tsv", b"index\timage\tquestion\tanswer\tA\tB\n"),
        ("a.tsv", b"index\timage_path\tquestion\tanswer\tquestion_type\tchoices\tanswer_type\n"),
        ("a.parquet", b""),
        ("a.parquet", b"PAR1"),
    ],
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES)
def test_arbitrary_bytes_raise_nothing_but_our_errors(name: str, start: bytes, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(start + data)
    try:
        loaded = load(path)
    except StructdecodeError as error:
        assert "\n" not in str(error)
        return
    assert all(rejected.line and rejected.message for rejected in loaded.rejected)
    assert len({question.id for question in loaded.questions}) == len(loaded.questions)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0, max_value=3000), flip=st.integers(min_value=0, max_value=255))
def test_a_damaged_parquet_file_raises_nothing_but_our_errors(cut: int, flip: int, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"question": ["q"] * 5, "answer": [str(n) for n in range(5)]})
    pyarrow.parquet.write_table(table, path)
    data = bytearray(path.read_bytes())
    data[cut % len(data)] ^= flip
    path.write_bytes(bytes(data))
    try:
        load(path)
    except StructdecodeError as error:
        assert "\n" not in str(error)

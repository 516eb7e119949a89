"""The digest of files that the pipeline did not make, and the index that spares reading them again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.provenance import content
from pipeline.provenance.content import content_digest

LONG_AGO = 1_600_000_000


def put(file: Path, text: str, when: int = LONG_AGO) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (when, when))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "set" / "a ä.txt", "one")
    put(tmp_path / "set" / "sub" / "b.txt", "two")
    put(tmp_path / "set" / ".hidden", "nothing")
    return tmp_path / "set"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, as they are read."""
    names: list[str] = []
    read = content._sha256

    def reading(file: Path) -> str:
        names.append(file.name)
        return read(file)

    monkeypatch.setattr(content, "_sha256", reading)
    return names


def test_unchanged_files_are_not_read_again(folder: Path, tmp_path: Path, reads: list[str]):
    index = tmp_path / "out" / "index.json"
    first = content_digest(folder, index)
    assert sorted(reads) == ["a ä.txt", "b.txt"]
    assert content_digest(folder, index) == first
    assert len(reads) == 2
    put(folder / "sub" / "b.txt", "six")
    os.utime(folder / "sub" / "b.txt", (LONG_AGO + 1, LONG_AGO + 1))
    assert content_digest(folder, index) != first
    assert reads[2:] == ["b.txt"]
    assert [file.name for file in index.parent.iterdir()] == ["index.json"]


def test_a_touch_and_a_way_back_change_nothing(folder: Path, tmp_path: Path):
    index = tmp_path / "index.json"
    first = content_digest(folder, index)
    put(folder / "a ä.txt", "one", LONG_AGO + 60)
    assert content_digest(folder, index) == first
    put(folder / "a ä.txt", "two", LONG_AGO + 120)
    assert content_digest(folder, index) != first
    put(folder / "a ä.txt", "one", LONG_AGO + 180)
    assert content_digest(folder, index) == first


def test_a_file_just_written_is_read_again(tmp_path: Path, reads: list[str]):
    file, index = tmp_path / "file", tmp_path / "index.json"
    now = int(time.time())
    first = content_digest(put(file, "one", now), index)
    assert content_digest(put(file, "two", now), index) != first  # same size, same time
    assert len(reads) == 2


def rename(folder: Path) -> None:
    (folder / "sub" / "b.txt").rename(folder / "sub" / "c.txt")


def swap(folder: Path) -> None:
    put(folder / "a ä.txt", "two")
    put(folder / "sub" / "b.txt", "one")


CHANGES: dict[str, Callable[[Path], object]] = {
    "another file": lambda folder: put(folder / "c.txt", "one"),
    "a file less": lambda folder: (folder / "a ä.txt").unlink(),
    "another name": rename,
    "contents swapped": swap,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_digest_of_a_folder(change: str, folder: Path, tmp_path: Path):
    first = content_digest(folder)
    assert content_digest(folder, tmp_path / "index.json") == first
    CHANGES[change](folder)
    assert content_digest(folder) != first


def test_what_does_not_change_it(folder: Path, tmp_path: Path):
    first = content_digest(folder)
    put(folder / ".DS_Store", "hidden")
    put(folder / ".git" / "config", "hidden")
    (folder / "empty").mkdir()
    assert content_digest(folder) == first
    assert content_digest(folder.rename(tmp_path / "moved")) == first


def test_a_file_counts_by_its_content_alone(tmp_path: Path):
    first = content_digest(put(tmp_path / "a.parquet", "rows"))
    assert content_digest(put(tmp_path / "b.parquet", "rows")) == first
    assert content_digest(put(tmp_path / "c.parquet", "more rows")) != first


def test_only_the_listed_files_count(folder: Path):
    listed = content_digest(folder, files=["sub/b.txt", "a ä.txt", "a ä.txt"])
    assert listed == content_digest(folder, files=["a ä.txt", "sub/b.txt"]) == content_digest(folder)
    put(folder / "c.txt", "not listed")
    assert content_digest(folder, files=["a ä.txt", "sub/b.txt"]) == listed


@pytest.mark.parametrize("broken", ["", "{", "[1, 2]", '{"a ä.txt": 3}', '{"a ä.txt": [1, "x", null]}'])
def test_a_broken_index_is_ignored_and_replaced(broken: str, folder: Path, tmp_path: Path):
    index = tmp_path / "index.json"
    index.write_text(broken)
    assert content_digest(folder, index) == content_digest(folder)
    assert set(json.loads(index.read_text())) == {"a ä.txt", "sub/b.txt"}


def test_an_index_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path):
    blocked = put(tmp_path / "a file", "no folder") / "index.json"
    assert content_digest(folder, blocked) == content_digest(folder)


def test_missing_files_are_named(folder: Path):
    with pytest.raises(PipelineError, match="gone: no such file or folder"):
        content_digest(folder / "gone")
    with pytest.raises(PipelineError, match=r"gone\.txt: cannot be read \(No such file"):
        content_digest(folder, files=["a ä.txt", "gone.txt"])


def test_many_files_at_once_give_the_digest_of_each_alone(tmp_path: Path):
    for number in range(50):
        put(tmp_path / "set" / f"{number}", str(number))
    index = tmp_path / "index.json"
    content_digest(tmp_path / "set", index)
    for name, (size, _, sha256) in json.loads(index.read_text()).items():
        assert size == len(name)
        assert content_digest(tmp_path / "set" / name) == sha256[:16]


def test_only_the_standard_library_is_imported():
    program = (
        "import sys; import pipeline.provenance.content, pipeline.datasets.content; "
        "print(sorted({'numpy', 'pyarrow', 'PIL', 'pydantic', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

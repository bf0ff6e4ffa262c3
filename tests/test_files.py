"""Files that are whole at every instant, and folders that are found unwritable before the work."""

import os
import tempfile

import pytest

from rnndrop_cuda.files import check_writable, write_whole


def test_a_file_is_written_and_replaced(tmp_path):
    file = tmp_path / "results.json"
    write_whole(file, b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_was_there_stays_if_writing_fails(step, tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_whole(file, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"


def test_a_file_is_on_the_disk_before_it_takes_the_others_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: (done.append("fsync"), fsync(*args)))
    monkeypatch.setattr(os, "replace", lambda *args: (done.append("replace"), replace(*args)))
    write_whole(tmp_path / "results.json", b"new")
    assert done == ["fsync", "replace"]


def test_a_file_brings_its_folder(tmp_path):
    write_whole(tmp_path / "a" / "b" / "results.json", b"new")
    assert (tmp_path / "a" / "b" / "results.json").read_bytes() == b"new"


def test_a_check_leaves_no_folder_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not any(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    check_writable(tmp_path / "a" / "b")
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]
    check_writable(tmp_path / "a")
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]


def test_a_check_that_fails_leaves_no_folder_behind_either(tmp_path, monkeypatch):
    def full(**where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="expected a folder that can be written, got .*/a/b: No space left on device"):
        check_writable(tmp_path / "a" / "b")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=f"out: expected a folder that can be written, got {file}: File exists"):
        check_writable(file)

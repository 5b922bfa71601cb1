"""Writing files in one step."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from hessdiag import files
from hessdiag.errors import InputError
from tests.privileges import ordinary


def test_text_is_written_and_replaced(tmp_path: Path):
    path = tmp_path / "report.json"
    files.write_text(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_appears_at_the_end_only(tmp_path: Path):
    path = tmp_path / "plot.png"
    with files.replacing(path) as temporary:
        assert temporary.parent == tmp_path  # so that renaming cannot fail half-way
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert not temporary.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error):
    path = tmp_path / "report.json"
    path.write_text("old")

    def write() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_bad_input(tmp_path: Path):
    def write() -> None:
        with files.replacing(tmp_path / "report.json"):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*report\.json\n  got: No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_results_have_ordinary_permissions(tmp_path: Path):
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "")
    finally:
        assert os.umask(mask) == 0o027  # it was given back
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o755])
def test_overwriting_keeps_the_mode(tmp_path: Path, mode: int):
    (tmp_path / "a").touch(mode)
    (tmp_path / "a").chmod(mode)
    with ordinary():
        files.write_text(tmp_path / "a", "new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert (tmp_path / "a").read_text() == "new"


def test_a_name_is_kept_for_the_file_that_is_replaced(tmp_path: Path, monkeypatch):
    path, keep = tmp_path / "a", tmp_path / "before"
    for number in range(3):
        with files.replacing(path, keep=keep) as temporary:
            temporary.write_text(str(number))
    assert (path.read_text(), keep.read_text()) == ("2", "1")
    monkeypatch.setattr(os, "link", lambda *_: os.truncate("/dev/full", 1))  # no hard links here
    with files.replacing(path, keep=keep) as temporary:
        temporary.write_text("3")
    assert (path.read_text(), keep.read_text()) == ("3", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "before"]


def test_folders_and_missing_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="the output path is a folder"):
        files.check_writable(tmp_path)
    with pytest.raises(InputError, match="folder does not exist"):
        files.check_writable(tmp_path / "none" / "report.json")
    with pytest.raises(InputError, match="folder does not exist"):
        files.write_text(tmp_path / "none" / "report.json", "")


def test_a_read_only_folder_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with ordinary(), pytest.raises(InputError, match=r"cannot write .*\n  got: Permission denied"):
        files.check_writable(tmp_path / "report.json")


def test_a_check_leaves_nothing_behind(tmp_path: Path):
    files.check_writable(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def test_special_files_are_not_replaced(tmp_path: Path):
    """Renaming over /dev/null would take it from the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError):
        files.check_writable(pipe)
    with pytest.raises(InputError):
        files.write_text(pipe, "text")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_link_stays_a_link(tmp_path: Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("length", [200, 245, 255])
def test_long_names_work(tmp_path: Path, length: int):
    path = tmp_path / ("x" * (length - 5) + ".json")
    files.check_writable(path)
    files.write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]


def test_names_too_long_are_refused_early(tmp_path: Path):
    with pytest.raises(InputError, match="cannot write"):
        files.check_writable(tmp_path / ("x" * 300))


def test_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_text_is_appended(tmp_path: Path):
    path = tmp_path / "summary.md"
    files.append_text(path, "ü\n")
    files.append_text(path, "more\n")
    assert path.read_bytes() == "ü\nmore\n".encode()


def test_what_cannot_be_appended_is_said(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot write .*none"):
        files.append_text(tmp_path / "none" / "summary.md", "x")
    with pytest.raises(InputError, match=r"cannot write"):
        files.append_text(tmp_path / "summary.md", "\ud8ff")

"""The one file writer: whole or not at all, durable, with the mode bits that were asked for."""

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_model.core import files
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, PRIVATE, PUBLIC, StorageError, create_file, whole_file, write_bytes

# The calls to the operating system of one write, in this order; each test below lets one of them fail.
STEPS = ("open", "fchmod", "fsync", "replace", "fsync of the folder")


class PowerCut(BaseException):
    """The process ends here: no handler of OSError sees it."""


@pytest.fixture
def umask_077() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def _fail_at(patch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Let the write's ``step`` raise ``error`` instead of doing its work."""
    if step != "fsync of the folder":

        def fail(*_: object, **__: object) -> None:
            raise error

        patch.setattr(files.os, step, fail)
        return
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise error
        fsync(descriptor)

    patch.setattr(files.os, "fsync", only_files)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PowerCut()], ids=["full disk", "power cut"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("old", [None, b"old content"], ids=["new file", "old file"])
def test_a_failure_at_any_step_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, old: bytes | None
) -> None:
    path, new = tmp_path / "file", b"new content" * 1000
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        _fail_at(patch, step, error)
        with pytest.raises(PowerCut if isinstance(error, PowerCut) else StorageError):
            write_bytes(path, new)
    expected = new if step == "fsync of the folder" else old  # by then the new name is there
    assert (path.read_bytes() if path.exists() else None) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if expected is None else ["file"])  # no left-over


@given(parts=st.lists(st.binary(max_size=300), max_size=5), fails_after=st.integers(0, 5))
def test_a_writer_that_fails_half_way_leaves_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], fails_after: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    write_bytes(path, b"old")

    def write() -> None:
        with whole_file(path) as stream:
            for number, part in enumerate(parts):
                if number == fails_after:
                    raise PowerCut
                stream.write(part)

    if fails_after < len(parts):
        with pytest.raises(PowerCut):
            write()
        assert path.read_bytes() == b"old"
    else:
        write()
        assert path.read_bytes() == b"".join(parts)


def test_a_reader_never_sees_half_of_a_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([n]) * 200_000 for n in range(20)]
    write_bytes(path, contents[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        write_bytes(path, content)
    done.set()
    reader.join()
    assert seen <= set(contents)


@pytest.mark.parametrize("write", [write_bytes, lambda p, c: create_file(p, c, PRIVATE)], ids=["replace", "create"])
def test_the_file_is_synced_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    done: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", lambda *a: (done.append("name"), replace(*a)))
    monkeypatch.setattr(files.os, "link", lambda *a: (done.append("name"), link(*a)))
    write(tmp_path / "file", b"content")
    assert done == ["file", "name", "folder"]


def test_a_new_folder_is_synced_into_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    write_bytes(tmp_path / "a" / "b" / "file", b"x")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_state_that_is_worthless_after_a_power_cut_costs_no_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda _: pytest.fail("synced"))
    files.write_json(tmp_path / "state", {"a": 1}, durable=False)
    assert json.loads((tmp_path / "state").read_text()) == {"a": 1}


@pytest.mark.usefixtures("umask_077")
@pytest.mark.parametrize(("mode", "bits"), [(PRIVATE, 0o600), (PUBLIC, 0o644), (ORDINARY, 0o600)])
def test_mode_bits_under_a_strict_umask(tmp_path: Path, mode: int | None, bits: int) -> None:
    write_bytes(tmp_path / "file", b"x", mode=mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == bits


@pytest.mark.parametrize(("mode", "bits"), [(PRIVATE, 0o600), (PUBLIC, 0o644), (ORDINARY, 0o666)])
def test_mode_bits_under_no_umask(tmp_path: Path, mode: int | None, bits: int) -> None:
    before = os.umask(0)
    try:
        write_bytes(tmp_path / "file", b"x", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == bits


def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file"):
        (partial,) = tmp_path.iterdir()
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600


def test_a_created_file_is_never_written_over(tmp_path: Path) -> None:
    create_file(tmp_path / "key", b"one", PRIVATE)
    with pytest.raises(InputError, match="exists already"):
        create_file(tmp_path / "key", b"two", PRIVATE)
    assert (tmp_path / "key").read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("step", ["fchmod", "fsync", "link"])
def test_a_created_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    _fail_at(monkeypatch, step, PowerCut())
    with pytest.raises(PowerCut):
        create_file(tmp_path / "key", b"secret", PRIVATE)
    assert list(tmp_path.iterdir()) == []


def test_json_that_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(InputError, match=r"a\.json: holds a number that is not finite"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"file/below: cannot be written \(File exists\); make room or choose"):
        write_bytes(tmp_path / "file" / "below", b"y")

"""Backups: whole, consistent while files change, checked when they are read, never over anything."""

import json
import tarfile
from pathlib import Path

import pytest

from shared_model.core import backup
from shared_model.core.backup import BackupRules, read_index, restore_backup, save_backup
from shared_model.core.errors import InputError
from shared_model.core.files import write_text

RULES = BackupRules(
    kind="site", left_out=lambda name: name.startswith("logs/"), secret=lambda name: name.startswith("keys/")
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    for name, text in {"a.json": "1", "deep/b": "2", "keys/k": "secret", "logs/x.log": "3"}.items():
        write_text(folder / name, text)
    return folder


def fine(_: Path) -> None:
    pass


@pytest.mark.parametrize("secrets", [False, True])
def test_what_was_saved_comes_back_and_no_more(home: Path, tmp_path: Path, secrets: bool) -> None:
    archive, new = tmp_path / "a.tar", tmp_path / "new"
    made = save_backup(home, archive, RULES, "north", secrets=secrets)
    assert archive.stat().st_mode & 0o777 == 0o600
    index = read_index(archive, "site")
    assert (index, index.owner) == (made, "north")
    restore_backup(archive, new, index, fine)
    found = {path.relative_to(new).as_posix(): path.read_text() for path in new.rglob("*") if path.is_file()}
    assert found == {"a.json": "1", "deep/b": "2", **({"keys/k": "secret"} if secrets else {})}
    assert index.without == (() if secrets else ("keys/k",))
    assert (new / "a.json").stat().st_mode & 0o777 == 0o600
    assert b"secret" not in archive.read_bytes() or secrets


def test_two_files_that_belong_together_are_of_one_moment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair that says the same number is written anew between the copies of its halves, three times."""
    copy, numbers = backup.shutil.copy2, iter(range(3))

    def write(number: int) -> None:
        write_text(home / "first", str(number))
        write_text(home / "second", str(number))

    def copy_and_write(source: Path, target: Path) -> None:
        copy(source, target)
        number = next(numbers, None) if source.name == "first" else None
        if number is not None:
            write(number)

    write(9)
    monkeypatch.setattr(backup.shutil, "copy2", copy_and_write)
    save_backup(home, tmp_path / "a.tar", RULES, "north")
    restore_backup(tmp_path / "a.tar", tmp_path / "new", read_index(tmp_path / "a.tar", "site"), fine)
    assert (tmp_path / "new/first").read_text() == (tmp_path / "new/second").read_text() == "2"


def test_a_folder_that_never_rests_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_PAUSE_S", 0.0)
    numbers = iter(range(10_000))
    monkeypatch.setattr(backup.time, "sleep", lambda _: write_text(home / "a.json", str(next(numbers))))
    with pytest.raises(InputError, match="change all the time"):
        save_backup(home, tmp_path / "a.tar", RULES, "north")
    assert not (tmp_path / "a.tar").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def altered(archive: Path, out: Path, name: str, content: bytes) -> Path:
    """The same archive with one member's content replaced, or with one member more."""
    with tarfile.open(archive) as old, tarfile.open(out, "w") as new:
        for member in old:
            stream = old.extractfile(member)
            if member.name == name:
                backup._add(new, name, content)
            else:
                new.addfile(member, stream)
        if name not in old.getnames():
            backup._add(new, name, content)
    return out


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("files/a.json", b"2", "not what was backed up"),
        ("files/../../evil", b"x", "which its index does not name"),
        ("files/more", b"x", "which its index does not name"),
    ],
)
def test_an_archive_that_was_changed_restores_nothing(
    home: Path, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    save_backup(home, tmp_path / "a.tar", RULES, "north")
    bad = altered(tmp_path / "a.tar", tmp_path / "bad.tar", name, content)
    with pytest.raises(InputError, match=why):
        restore_backup(bad, tmp_path / "new", read_index(bad, "site"), fine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "bad.tar", "home"]


def test_a_path_out_of_the_folder_in_the_index_itself_is_refused(home: Path, tmp_path: Path) -> None:
    save_backup(home, tmp_path / "a.tar", RULES, "north")
    with tarfile.open(tmp_path / "a.tar") as tar:
        record = json.load(tar.extractfile("backup.json"))
    record["files"]["../evil"] = record["files"]["a.json"]
    first = altered(tmp_path / "a.tar", tmp_path / "b.tar", "backup.json", json.dumps(record).encode())
    bad = altered(first, tmp_path / "bad.tar", "files/../evil", b"1")
    with pytest.raises(InputError, match="outside of the folder"):
        restore_backup(bad, tmp_path / "new", read_index(bad, "site"), fine)
    assert not (tmp_path / "evil").exists()


def test_a_cut_archive_another_kind_and_no_archive_are_named(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    save_backup(home, archive, RULES, "north")
    index = read_index(archive, "site")
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:4096])
    with pytest.raises(InputError, match=r"cut short|damaged"):
        restore_backup(tmp_path / "cut.tar", tmp_path / "new", index, fine)
    with pytest.raises(InputError, match="backup of a site; expected that of a coordinator"):
        read_index(archive, "coordinator")
    for bad in (home / "a.json", tmp_path / "none"):
        with pytest.raises(InputError, match=bad.name):
            read_index(bad, "site")


def test_nothing_is_written_over(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    save_backup(home, archive, RULES, "north")
    with pytest.raises(InputError, match="never overwritten"):
        save_backup(home, archive, RULES, "north")
    with pytest.raises(InputError, match="lies in the folder"):
        save_backup(home, home / "b.tar", RULES, "north")
    with pytest.raises(InputError, match="not empty"):
        restore_backup(archive, home, read_index(archive, "site"), fine)
    assert (home / "a.json").read_text() == "1"

"""Keys under a passphrase: what lies on disk, where the passphrase may come from, and what is said when it is wrong."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from privacy.flower.processes import closed_environment
from privacy.trust import certificates
from privacy.trust.passphrase import (
    CREDENTIAL,
    FILE,
    TEXT,
    passphrase,
    passphrase_environment,
    read_private_key,
    write_private_key,
)
from server.consortium.admission import read_ca_key
from server.deployment.home import create
from shared_model.core.errors import InputError

WORD = "a dozen hedgehogs"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FILE, TEXT, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("way", ["text", "file", "credential"])
def test_a_key_written_with_a_passphrase_opens_with_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "text":
        monkeypatch.setenv(TEXT, WORD)
    else:
        source = tmp_path / CREDENTIAL
        source.write_text(WORD + "\n")
        monkeypatch.setenv(*{"file": (FILE, str(source)), "credential": ("CREDENTIALS_DIRECTORY", str(tmp_path))}[way])
    key, path = certificates.new_signing_key(), tmp_path / "key"
    write_private_key(path, key)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert serialization.load_pem_private_key(path.read_bytes(), WORD.encode())
    assert read_private_key(path) == key
    monkeypatch.delenv(FILE, raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv(TEXT, "a dozen porcupines")
    with pytest.raises(InputError, match="wrong for this key") as wrong:
        read_private_key(path)
    monkeypatch.delenv(TEXT)
    with pytest.raises(InputError, match=TEXT) as missing:
        read_private_key(path)
    for caught in (wrong, missing):
        assert str(path) in str(caught.value)
        assert "porcupine" not in str(caught.value)


def test_a_child_that_signs_gets_what_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passphrase_environment() == {}
    monkeypatch.setenv(TEXT, WORD)
    assert passphrase_environment() == {TEXT: WORD}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FILE, "word.txt")
    assert passphrase_environment() == {TEXT: WORD, FILE: str(tmp_path / "word.txt")}
    assert not {TEXT, FILE} & set(closed_environment(tmp_path))


def test_without_a_passphrase_a_key_is_plain_and_read_as_it_is(tmp_path: Path) -> None:
    assert passphrase() is None
    key = certificates.new_signing_key()
    write_private_key(tmp_path / "key", key)
    assert (tmp_path / "key").read_bytes() == key == read_private_key(tmp_path / "key")


def test_a_short_passphrase_or_a_missing_file_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((TEXT, "hedgehog"), (TEXT, ""), (FILE, str(tmp_path / "none"))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(InputError) as caught:
                create("clinics", tmp_path / "home", "127.0.0.1", 9092, 9093, [])
        assert "hedgehog" not in str(caught.value)
        assert not (tmp_path / "home").exists()


def test_a_coordinators_authority_needs_it_and_what_runs_unattended_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEXT, WORD)
    home = create("clinics", tmp_path / "home", "127.0.0.1", 9092, 9093, [])
    assert b"ENCRYPTED" in home.ca_key.read_bytes()
    assert b"ENCRYPTED" in home.roster_key.read_bytes()
    assert b"ENCRYPTED" not in home.tls_key.read_bytes()
    site = certificates.issue_site_certificate(
        read_ca_key(home.ca_key),
        home.ca_certificate.read_bytes(),
        "north",
        certificates.private_key(certificates.new_signing_key()).public_key(),
    )
    assert site.startswith(b"-----BEGIN CERTIFICATE-----")
    monkeypatch.delenv(TEXT)
    with pytest.raises(InputError, match="passphrase"):
        read_ca_key(home.ca_key)


def test_no_child_process_is_told_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEXT, WORD)
    monkeypatch.setenv(FILE, str(tmp_path / "word"))
    assert not {TEXT, FILE} & set(closed_environment(tmp_path))

"""`client pull`: fetches a patient's studies from an archive by DICOMweb (PS3.18: QIDO-RS and WADO-RS).

For archives that cannot push to `client receive`. Memory holds one instance at a time. Only CT and RT objects are kept.
Needs the extra ``intake`` (dicomweb-client).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client.pacs.receive import KINDS, Store
from shared_model.core.errors import InputError

TIMEOUT_S = 120.0
# Studies asked for at once, and the most of one patient: an archive may list fewer at a time than it has.
PAGE, MOST_STUDIES = 100, 1000
# Tries of one request, 2 and 4 s apart; the library's own five keep a person waiting for half a minute.
ATTEMPTS = 3
_STUDY_UID, _PATIENT_ID = "0020000D", "00100020"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A DICOMweb service. ``login``: a file (0600) with one line ``user:password``; ``token``: in its place, one with a
    bearer token (RFC 6750), which https:// alone may carry; ``ca``: the archive's authority."""

    url: str
    login: Path | None = None
    token: Path | None = None
    ca: Path | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.login is not None and self.token is not None:
            raise InputError("pull: expected --login or --token, not both")
        if not self.url.startswith(("http://", "https://")):
            raise InputError("pull: expected the archive's DICOMweb address, such as https://pacs.example/dicom-web")
        if self.token is not None and not self.url.startswith("https://") and not _is_loopback(self.url):
            raise InputError("pull: --token: expected an https:// address; over http:// anybody on the way reads it")


def pull(archive: Archive, store: Store, *, patient_id: str = "", study_uid: str = "") -> int:
    """Fetch the studies of a patient, or one study; returns how many were found.

    Raises InputError, without the requested id, if the archive cannot be reached or refuses, if there is no such study,
    or if the folder is full.
    """
    if bool(patient_id) == bool(study_uid):
        raise InputError("pull: expected --patient-id or --study-uid")
    with _clear_errors():
        client = _client(archive)
        studies = [study_uid] if study_uid else _studies(client, patient_id)
        if not studies:
            raise InputError("pull: the archive has no study of that patient")
        for study in studies:
            _fetch(client, study, store)
    return len(studies)


def _client(archive: Archive) -> Any:
    try:
        import requests
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise InputError("pull: dicomweb-client is not installed; pip install 'fedkt3d[intake]'") from error
    session = requests.Session()
    if archive.login is not None:
        user, _, password = _login(archive.login).partition(":")
        session.auth = (user, password)
    if archive.token is not None:
        token = _token(archive.token)

        def bearer(request: Any) -> Any:  # as an `auth`, or requests takes a login of ~/.netrc in its place
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        session.auth = bearer
    if archive.ca is not None:
        session.verify = str(archive.ca)
    client = DICOMwebClient(url=archive.url, session=session, timeout=archive.timeout_s)
    client.set_http_retry_params(max_attempts=ATTEMPTS)
    return client


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


def _login(path: Path) -> str:
    try:
        line = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; expected one line user:password") from error
    if ":" not in line or "\n" in line:
        raise InputError(f"{path}: expected one line user:password")
    return line


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; expected one line, a bearer token") from error
    if not token or any(sign.isspace() for sign in token):
        raise InputError(f"{path}: expected one line, a bearer token without spaces")
    return token


def _studies(client: Any, patient_id: str) -> list[str]:
    """UIDs of all studies of a patient, page after page (PS3.18 section 8.3.4.4).

    An archive may return fewer studies than requested, and one without pages returns the first page again. So the list
    ends when nothing new comes. An archive without filters lists all patients: other patients' studies are skipped.
    """
    if any(sign in patient_id for sign in "*?\\"):
        raise InputError("pull: --patient-id: expected one id, without the signs * ? \\ that stand for several")
    found: dict[str, bool] = {}
    given = 0
    while len(found) <= MOST_STUDIES:
        page = client.search_for_studies(search_filters={"PatientID": patient_id}, limit=PAGE, offset=given)
        before = len(found)
        found |= {str(study[_STUDY_UID]["Value"][0]): _is_of(study, patient_id) for study in page}
        given += len(page)
        if len(found) == before:
            return [study for study, own in found.items() if own]
    raise InputError(f"pull: the archive lists more than {MOST_STUDIES} studies; fetch one with --study-uid")


def _is_of(study: dict[str, Any], patient_id: str) -> bool:
    """Whether a listed study is this patient's, or does not say whose it is."""
    (named,) = study.get(_PATIENT_ID, {}).get("Value") or [patient_id]
    return str(named).strip() == patient_id.strip()


def _fetch(client: Any, study: str, store: Store) -> None:
    for dataset in client.iter_study(study):
        if dataset.SOPClassUID not in KINDS:
            continue
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        if not store.keep(study, str(dataset.SOPInstanceUID), content.getvalue()):
            raise InputError("pull: the folder is full, by --quota-gb or by its disk; the study is incomplete")


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the libraries' errors into one line of ours. Their texts quote addresses that hold the requested id."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = "no answer" if error.response is None else f"status {error.response.status_code}"
        raise InputError(
            f"pull: the archive refused ({status}); is --login or --token right? does it know the id?"
        ) from None
    except requests.RequestException as error:
        what = type(error).__name__
        raise InputError(
            f"pull: no connection to the archive ({what}); check the address, --ca and --timeout"
        ) from None
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"pull: the archive's answer is not DICOMweb ({type(error).__name__}); check the address"
        ) from None

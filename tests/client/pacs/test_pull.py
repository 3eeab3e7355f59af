"""Listing a patient's studies: page after page, to the end and no further, whatever the archive makes of pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from client.pacs import pull as pulling
from client.pacs.receive import Store
from shared_model.core.errors import InputError

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (pip install 'fedkt3d[intake]')")

Answer = Callable[[str, int, int], list[tuple[str, str]]]
UIDS = [f"1.2.3.{k}" for k in range(7)]


def listed(uids: list[str], patient: str = "P1") -> list[tuple[str, str]]:
    return [(uid, patient) for uid in uids]


@contextmanager
def archive(answer: Answer, shown: list[str | None] | None = None) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """A web server on loopback that lists studies as ``answer(patient, limit, offset)`` says; and what it was asked.

    ``shown`` takes the Authorization of each request."""
    asked: list[tuple[int, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlparse(self.path).query)
            (patient, limit, offset) = (query[key][0] for key in ("PatientID", "limit", "offset"))
            asked.append((int(limit), int(offset)))
            if shown is not None:
                shown.append(self.headers.get("Authorization"))
            found = answer(patient, int(limit), int(offset))
            content = [
                {"0020000D": {"vr": "UI", "Value": [uid]}, "00100020": {"vr": "LO", "Value": [whose]}}
                for uid, whose in found
            ]
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetched(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient: str = "P1") -> list[str]:
    """The studies that a pull of a patient asks for, in order."""
    got: list[str] = []
    monkeypatch.setattr(pulling, "_fetch", lambda client, study, store: got.append(study))
    pulling.pull(pulling.Archive(url=url), Store(tmp_path / "in", 1.0), patient_id=patient)
    return got


@pytest.mark.parametrize(
    "answer",
    [
        lambda patient, limit, offset: listed(UIDS[offset : offset + limit]),
        lambda patient, limit, offset: listed(UIDS[offset : offset + 2]),  # gives fewer than it is asked for
        lambda patient, limit, offset: listed(UIDS),  # knows no pages
    ],
    ids=["pages", "smaller pages", "no pages"],
)
def test_every_study_is_found_once(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "PAGE", 3)
    with archive(answer) as (url, asked):
        assert fetched(url, tmp_path, monkeypatch) == UIDS
    assert asked[0] == (3, 0)
    assert 2 <= len(asked) <= 5


def test_others_studies_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with archive(lambda *_: [*listed(UIDS[:2]), *listed(UIDS[2:], "P2")]) as (url, _):
        assert fetched(url, tmp_path, monkeypatch) == UIDS[:2]
        with pytest.raises(InputError, match="no study of that patient"):
            fetched(url, tmp_path, monkeypatch, "P3")


def test_a_list_without_end_and_an_id_that_means_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "MOST_STUDIES", 50)
    with archive(lambda patient, limit, offset: listed([f"1.2.{offset + k}" for k in range(limit)])) as (url, asked):
        with pytest.raises(InputError, match="more than 50 studies"):
            fetched(url, tmp_path, monkeypatch)
        assert len(asked) == 1  # the first page alone is longer
        for wrong in ("*", "P?", "P1\\P2"):
            with pytest.raises(InputError, match="expected one id"):
                fetched(url, tmp_path, monkeypatch, wrong)


def test_a_bearer_token_goes_with_every_request_whatever_netrc_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(pulling, "_fetch", lambda client, study, store: None)
    token, shown = tmp_path / "token", []
    token.write_text("abc.def-123\n")
    with archive(lambda *_: listed(UIDS[:1]), shown) as (url, _):
        pulling.pull(pulling.Archive(url=url, token=token), Store(tmp_path / "in", 1.0), patient_id="P1")
    assert len(shown) == 2
    assert set(shown) == {"Bearer abc.def-123"}


def test_a_token_is_one_word_and_never_in_the_clear(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    with pytest.raises(InputError, match="https://"):
        pulling.Archive(url="http://pacs.example/dicom-web", token=token)
    with pytest.raises(InputError, match="not both"):
        pulling.Archive(url="https://pacs.example/dicom-web", token=token, login=token)
    for wrong in ("", "two words", "a\nb", "ä"):
        token.write_text(wrong, encoding="utf-8")
        archive_of = pulling.Archive(url="https://127.0.0.1:9/dicom-web", token=token)
        with pytest.raises(InputError, match="a bearer token") as caught:
            pulling.pull(archive_of, Store(tmp_path / "in", 1.0), patient_id="P1")
        assert "words" not in str(caught.value)

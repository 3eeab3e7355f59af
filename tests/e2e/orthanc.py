"""A real Orthanc (Debian: apt-get install orthanc orthanc-dicomweb) on loopback, as the hospital's archive."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from privacy.flower.processes import free_loopback_port
from tests.e2e.deployment import eventually

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/bin")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = "Orthanc is not installed (Debian: apt-get install orthanc orthanc-dicomweb)"
_FILTER = """
function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  return httpHeaders['authorization'] == 'Bearer {token}'
end
"""


class Orthanc:
    """One archive, driven by its REST API. It may send to the AE title FEDKT3D at ``port_out``."""

    def __init__(
        self, folder: Path, port_out: int, plugins: bool, tls: Mapping[str, Path] | None = None, token: str = ""
    ) -> None:
        self.http_port, self.dicom_port = free_loopback_port(), free_loopback_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        folder.mkdir(parents=True)
        self.configuration = folder / "orthanc.json"
        content: dict[str, Any] = {
            "Name": "archive",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {
                "fedkt3d": {
                    "AET": "FEDKT3D",
                    "Host": "127.0.0.1",
                    "Port": port_out,
                    "AllowFind": True,
                    "AllowMove": True,
                    "AllowStore": True,
                    "UseDicomTls": tls is not None,
                }
            },
            "Plugins": [str(DICOMWEB)] if plugins else [],
        }
        if tls is not None:
            content |= {"DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": True}
            content |= {f"DicomTls{key}": str(path) for key, path in tls.items()}
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        if token:  # Orthanc itself knows no tokens; its filter of requests does
            filter_lua = folder / "filter.lua"
            filter_lua.write_text(_FILTER.format(token=token))
            content["LuaScripts"] = [str(filter_lua)]
        self.configuration.write_text(json.dumps(content))

    def upload(self, path: Path) -> str:
        """Put one file in; the id of its study."""
        answer = httpx.post(f"{self.url}/instances", content=path.read_bytes(), timeout=60, headers=self.headers)
        return str(answer.raise_for_status().json()["ParentStudy"])

    def send(self, study: str) -> None:
        """Send a study to the AE title FEDKT3D; raises if it was not taken."""
        httpx.post(
            f"{self.url}/modalities/fedkt3d/store", content=study, timeout=120, headers=self.headers
        ).raise_for_status()

    def instances(self, modality: str) -> list[str]:
        """Ids of all instances of a modality."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        found = httpx.post(f"{self.url}/tools/find", json=query, timeout=60, headers=self.headers)
        return list(found.raise_for_status().json())

    def file(self, instance: str) -> bytes:
        """One instance as a file."""
        found = httpx.get(f"{self.url}/instances/{instance}/file", timeout=60, headers=self.headers)
        return found.raise_for_status().content


@contextmanager
def running(
    folder: Path, port_out: int, plugins: bool = True, tls: Mapping[str, Path] | None = None, token: str = ""
) -> Iterator[Orthanc]:
    """Start an archive and wait until it answers; ends it with the block. ``tls``: files for Orthanc's Certificate,
    PrivateKey and TrustedCertificates; then it speaks DICOM over TLS alone. ``token``: it answers no HTTP request
    without this bearer token."""
    archive = Orthanc(folder, port_out, plugins, tls, token)
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(archive.configuration)], stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(archive), 60, "Orthanc answers")
        yield archive
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(archive: Orthanc) -> bool:
    try:
        return httpx.get(f"{archive.url}/system", timeout=5, headers=archive.headers).status_code == 200
    except httpx.HTTPError:
        return False

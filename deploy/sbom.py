"""`make sbom`: a software bill of materials, in CycloneDX 1.6 JSON, of all that constraints.txt pins, and torch.

``python deploy/sbom.py OUT --torch VERSION [--constraints FILE]``, in the repository's root and the environment of
`make install`. Each package has its version, the hashes of the files that pip accepts for it, and its licence as the
installed package states it. torch has no hash: its builds for CPU and CUDA differ, and it is pinned by version alone.
The file holds no time and no random number, so equal pins give equal bytes.

Own code rather than cyclonedx-bom: that one needs packages under MPL, and this is a page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)((?:[^\n]*\\\n)*[^\n]*)$", re.M)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NO_LICENCE = ("", "UNKNOWN", "LICENSE")
_LONGEST = 60  # some packages put the whole text of their licence where its name belongs


def licence(name: str) -> dict[str, Any]:
    """Return a package's licence as CycloneDX has it: an SPDX expression, or the name that the package gives."""
    about = metadata(name)
    if expression := about.get("License-Expression"):
        return {"expression": expression}
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    named = (about.get("License") or "").strip()
    if named in _NO_LICENCE or "\n" in named or len(named) > _LONGEST:
        named = " / ".join(text for text in classified if text != "DFSG approved")
    return {"license": {"name": named or "not stated"}}


def component(name: str, version: str, hashes: Sequence[str]) -> dict[str, Any]:
    """Return the entry of one pinned package."""
    purl = f"pkg:pypi/{name}@{version}"
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    entry["licenses"] = [licence(name)]
    if hashes:
        files = [{"alg": "SHA-256", "content": content} for content in hashes]
        entry["externalReferences"] = [
            {"type": "distribution", "url": f"https://pypi.org/simple/{name}/", "hashes": files}
        ]
    return entry


def bill(constraints: str, torch: str) -> dict[str, Any]:
    """Return the bill of the pins in ``constraints`` (the file's text) and of torch. PackageNotFoundError."""
    pins = [(name, version, _HASH.findall(rest)) for name, version, rest in _PIN.findall(constraints)]
    components = [component(name, version, hashes) for name, version, hashes in sorted([*pins, ("torch", torch, [])])]
    own = {"type": "application", "bom-ref": "fedkt3d", "name": "fedkt3d", "version": metadata("fedkt3d")["Version"]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": "fedkt3d", "dependsOn": sorted(entry["bom-ref"] for entry in components)}],
    }


def main(arguments: Sequence[str]) -> int:
    """Write the bill; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--torch", required=True, help="the version of torch that the Makefile pins")
    parser.add_argument("--constraints", type=Path, default=Path(__file__).parents[1] / "constraints.txt")
    given = parser.parse_args(arguments)
    try:
        made = bill(given.constraints.read_text(encoding="utf-8"), given.torch)
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed here; first `make install`", file=sys.stderr)
        return 1
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

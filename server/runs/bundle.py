"""The bundle that Flower requires with every run: a pyproject.toml without any code.

`flwr run` sends a bundle (FAB) to the SuperLink, which passes it to the ServerApp's process and to every site. Ours
names `server.app:app` and `client.app:app` and holds no module. So both sides import what is installed on their own
machine. A site's executor does not even unpack it.
"""

from __future__ import annotations

import json
from pathlib import Path

NAME = "fedkt3d"
_PYPROJECT = """\
[project]
name = "fedkt3d"
version = "0.1.0"
description = "Names the installed apps of FedKT3D; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedkt3d"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
config = ""
config-sha256 = ""
out = ""
home = ""
"""


def write_bundle(folder: Path) -> Path:
    """Write the stub below `folder` and return its path, which `flwr run` takes."""
    bundle = folder / NAME
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "pyproject.toml").write_text(_PYPROJECT, encoding="utf-8")
    return bundle


def write_run_config(path: Path, *, config: str, sha256: str, out: Path, home: Path) -> Path:
    """Write the TOML file with the run configuration's four keys (declared in the stub) and return its path.

    A JSON text without \\u surrogates is a valid TOML basic string, except that TOML wants DEL escaped.
    """
    values = {"config": config, "config-sha256": sha256, "out": str(out), "home": str(home)}
    lines = [f"{key} = {_toml_string(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

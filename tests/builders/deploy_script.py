"""A script of deploy/ as a module: they are run, not installed."""

import importlib.util
from pathlib import Path
from types import ModuleType

DEPLOY = Path(__file__).parents[2] / "deploy"


def deploy_script(name: str) -> ModuleType:
    """Load ``deploy/NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

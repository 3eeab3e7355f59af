"""`client` itself starts without torch: a status line must not wait for it."""

import subprocess
import sys


def test_the_command_imports_no_torch() -> None:
    code = "import sys, client.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""`make wheelhouse`: every wheel that a site or coordinator needs, for machines without a package index.

``python deploy/wheelhouse.py OUT [--torch VERSION] [--torch-index URL] [--key FILE]``, in the repository's root and the
environment of `make install`. OUT gets the wheels, ``requirements.txt`` with the hash of each, ``SHA256SUMS`` over all
of it and, with a key (``ssh-keygen -t ed25519``), ``SHA256SUMS.sig``. Each package is the one that constraints.txt
pins, and pip checks its hash. torch is the exception, as in the Makefile: its hash is that of what was downloaded. Of
torch's CUDA build the packages that it needs besides (nvidia-*) are not pinned, so this makes a wheelhouse of its CPU
build alone.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

WHAT = "fedkt3d[intake,metrics]"
NAMESPACE = "fedkt3d-wheelhouse"  # what the signature is for: one for another purpose does not fit


def needed(wanted: str) -> set[str]:
    """Return the canonical names of all that ``wanted`` needs on this platform, itself left out."""
    first = Requirement(wanted)
    todo = [(canonicalize_name(first.name), frozenset(first.extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for line in requires(name) or ():
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                todo.append((canonicalize_name(one.name), frozenset(one.extras)))
    return {name for name, _ in seen} - {canonicalize_name(first.name)}


def pinned(constraints: str, names: set[str]) -> str:
    """Return the lines of constraints.txt (with their hashes) of the packages in ``names``; KeyError if one is not."""
    blocks: dict[str, str] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", constraints):
        found = re.match(r"([A-Za-z0-9._-]+)==", block)
        if found:
            blocks[canonicalize_name(found[1])] = block.rstrip()
    if missing := names - blocks.keys():
        raise KeyError(
            f"constraints.txt pins no {', '.join(sorted(missing))}; a CUDA build of torch needs more than it has"
        )
    return "\n".join(blocks[name] for name in sorted(names)) + "\n"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def requirements(folder: Path) -> str:
    """Return one line for each wheel in ``folder``, with its version and hash."""
    lines = []
    for path in sorted(folder.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        lines.append(f"{name}=={version} --hash=sha256:{sha256(path)}")
    return "\n".join(lines) + "\n"


def sums(folder: Path) -> str:
    """Return the lines of SHA256SUMS for the files in ``folder``, as `sha256sum --check` reads them."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("SHA256SUMS"))
    return "".join(f"{sha256(path)}  {path.name}\n" for path in files)


def sign(folder: Path, key: Path) -> None:
    """Sign SHA256SUMS with an SSH key; `ssh-keygen -Y verify` checks it."""
    path = folder / "SHA256SUMS"
    path.with_name("SHA256SUMS.sig").unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)], check=True)


def finish(folder: Path, key: Path | None) -> None:
    """Write requirements.txt, SHA256SUMS and, with a key, its signature."""
    (folder / "requirements.txt").write_text(requirements(folder), encoding="utf-8")
    (folder / "SHA256SUMS").write_text(sums(folder), encoding="utf-8")
    if key is not None:
        sign(folder, key)


def main() -> None:
    """Make the wheelhouse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--torch", required=True, help="version, as the Makefile pins it")
    parser.add_argument("--torch-index", default="", help="index of the wanted build; default: pip's own")
    parser.add_argument("--key", type=Path, help="private SSH key to sign with")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    names = needed(WHAT) - {"torch"}
    chosen = args.out / "chosen.txt"
    chosen.write_text(pinned(Path("constraints.txt").read_text(encoding="utf-8"), names), encoding="utf-8")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(args.out)]
    subprocess.run([*wheel, "--require-hashes", "--requirement", str(chosen)], check=True)
    chosen.unlink()
    index = ["--index-url", args.torch_index] if args.torch_index else []
    subprocess.run([*wheel, *index, f"torch=={args.torch}"], check=True)
    subprocess.run([*wheel, "--no-build-isolation", "."], check=True)
    finish(args.out, args.key)
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    print(f"{args.out}: {len(list(args.out.glob('*.whl')))} wheels, {size:.0f} MB", end="")
    print("" if args.key else "; not signed: KEY=FILE signs it (ssh-keygen -t ed25519)")


if __name__ == "__main__":
    main()

"""Files of others that the console and its tests carry: taken from npm, and held against a lock.

    python -m tests.support.vendored          # are the files those of the lock? exit 1 if not
    python -m tests.support.vendored fetch    # fetches the locked packages, checks them, writes the files

The lock names each package with its version, the tarball's address and npm's own ``integrity`` of it, and
each file that is taken from it with its SHA-256. For a new version change version, address and integrity to
what ``npm view NAME dist`` says, fetch, and write down the hashes that it tells.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
LOCK: Final = ROOT / "tests" / "support" / "vendored.lock.json"
FETCH_S: Final = 60.0


def locked(lock: pathlib.Path = LOCK) -> dict[str, Any]:
    """Name of a package -> its entry."""
    packages: dict[str, Any] = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    return packages


def integrity(raw: bytes) -> str:
    """As npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(raw).digest()).decode()


def offences(packages: dict[str, Any], root: pathlib.Path = ROOT) -> Iterator[str]:
    """What is not as the lock says, in words."""
    for name, package in packages.items():
        for member, entry in package["files"].items():
            path = root / entry["path"]
            if not path.is_file():
                yield f"{entry['path']} of {name} is not there"
                continue
            seen = hashlib.sha256(path.read_bytes()).hexdigest()
            if seen != entry["sha256"]:
                yield f"{entry['path']} is not {member} of {name} {package['version']}: SHA-256 {seen}"


def fetch(packages: dict[str, Any], root: pathlib.Path = ROOT) -> None:
    """Writes the files of the lock. Raises ValueError where a tarball is not the one that is locked."""
    for name, package in packages.items():
        if not package["resolved"].startswith("https://registry.npmjs.org/"):
            raise ValueError(f"{name} is not to be had from {package['resolved']}")
        with urllib.request.urlopen(package["resolved"], timeout=FETCH_S) as response:
            raw = response.read()
        if integrity(raw) != package["integrity"]:
            raise ValueError(f"{package['resolved']} has another integrity: {integrity(raw)}")
        with tarfile.open(fileobj=io.BytesIO(raw)) as tarball:
            for member, entry in package["files"].items():
                taken = tarball.extractfile(f"package/{member}")
                assert taken is not None, f"{member} of {name} is no file"
                path = root / entry["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(taken.read())


def main(arguments: list[str]) -> int:
    packages = locked()
    if arguments == ["fetch"]:
        fetch(packages)
    found = list(offences(packages))
    for offence in found:
        print(offence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

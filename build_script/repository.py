"""Makes a signed apt repository from the packages of `make deb`.

python build_script/repository.py --key secret-key.asc [--output build/repository]
python build_script/repository.py --test-key     # with a key that is made and thrown away: for trying out only
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script import deb, mirror
from build_script.buildroot import BUILD, Bind, cached, unpacked
from build_script.mirror import SUITE, Source
from build_script.progress import Failed, ended, step

OUTPUT = deb.ROOT / "build" / "repository"
KEYRING = "duxos-archive-keyring.asc"
"""The public key beside the repository, to be put into /etc/apt/keyrings."""
DISTRIBUTION = f"""Origin: Dux OS
Label: Dux OS
Codename: {SUITE}
Architectures: {{architecture}}
Components: main
Description: packages of Dux OS for Debian
SignWith: {{key}}
"""
IMPORT = "gpg --batch --quiet --pinentry-mode loopback --passphrase-file /work/passphrase --import /work/key"
MAKE = (
    "gpg --batch --quiet --pinentry-mode loopback --passphrase '' "
    "--quick-generate-key 'Dux OS trial repository <trial@duxos.invalid>' ed25519 sign 30d"
)
FINGERPRINT = "gpg --batch --with-colons --list-secret-keys 2>/dev/null | awk -F: '$1 == \"fpr\" {print $10; exit}'"
EXPORT = f"gpg --batch --armor --export > /work/out/{KEYRING}"
ARMOR = b"-----BEGIN PGP PRIVATE KEY BLOCK-----"
PACKETS = (*range(0x94, 0x98), 0xC5)
"""First octets of a secret key that is not armored (RFC 9580, sections 4.2 and 5.5.1.3)."""


def begins_as_secret_key(data: bytes) -> bool:
    """Whether an exported secret key begins like this; only gpg can tell whether it is one."""
    return ARMOR in data or data[:1] in {bytes([octet]) for octet in PACKETS}


def make(
    packages: Sequence[Path],
    output: Path,
    *,
    key: Path | None,
    passphrase: str = "",
    sources: Sequence[Source] | None = None,
) -> Path:
    """The repository in `output`, whatever was there replaced at once; `key` is an exported secret key, None makes one.

    Raises Failed when the key can't be used or a package not be read.
    """
    output = output.resolve()
    no_key = f"{key} holds no secret key; now: gpg --armor --export-secret-keys ID > {key}"
    if key is not None and not begins_as_secret_key(key.read_bytes()):
        raise Failed(no_key)
    output.parent.mkdir(parents=True, exist_ok=True)
    tar = cached(BUILD, sources)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=output.parent) as made, unpacked(tar) as root:
        part = Path(made)
        part.chmod(0o755)
        (part / "out").mkdir()
        (part / "conf").mkdir()
        (part / "debs").mkdir()
        for path in packages:
            shutil.copyfile(path, part / "debs" / path.name)
        # gpg asks for the passphrase by the agent's loopback: nothing can hang at a question.
        (part / "passphrase").touch(mode=0o600)
        (part / "passphrase").write_text(passphrase)
        if key is not None:
            (part / "key").touch(mode=0o600)
            (part / "key").write_bytes(key.read_bytes())

        def run(command: str) -> str:
            binds = [Bind(part, "/work", writable=True)]
            return root.run("bash", "-c", f"set -e -o pipefail; {command}", binds=binds).stdout.strip()

        with step("signing the repository"):
            run(
                "mkdir -p -m 700 ~/.gnupg; echo 'pinentry-mode loopback' >~/.gnupg/gpg.conf; "
                "echo 'passphrase-file /work/passphrase' >>~/.gnupg/gpg.conf"
            )
            run(IMPORT if key else MAKE)
            if not (fingerprint := run(FINGERPRINT)):
                raise Failed(no_key)
            text = DISTRIBUTION.format(architecture=mirror.architecture(), key=fingerprint)
            (part / "conf/distributions").write_text(text, encoding="utf-8")
            run(
                f"{EXPORT}; reprepro --silent --basedir /work --outdir /work/out includedeb {SUITE} /work/debs/*.deb; "
                "gpgconf --kill all"
            )
        if output.exists():
            shutil.rmtree(output)
        (part / "out").rename(output)
    return output


def source_lines(folder: Path) -> str:
    """A `.sources` file for the repository where it is now."""
    lines = ["Types: deb", f"URIs: file:{folder}", f"Suites: {SUITE}", "Components: main"]
    return "\n".join([*lines, f"Signed-By: /etc/apt/keyrings/{KEYRING}"]) + "\n"


def instructions(folder: Path) -> str:
    """What root types on a machine that sees the repository at `folder`."""
    return (
        f"install -D -m 644 {folder / KEYRING} /etc/apt/keyrings/{KEYRING}\n"
        f"cat >/etc/apt/sources.list.d/duxos.sources <<'END'\n{source_lines(folder)}END\n"
        "apt update && apt install dux-node"
    )


def main() -> int:
    """Make it and say how machines use it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--key", type=Path, metavar="FILE", help="exported secret key (gpg --export-secret-keys)")
    which.add_argument("--test-key", action="store_true", help="sign with a key made for this repository alone")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its passphrase, in the first line")
    parser.add_argument("--packages", type=Path, default=deb.OUTPUT, metavar="DIR", help="default: build/deb")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: build/repository")
    mirror.add_options(parser)
    options = parser.parse_args()
    packages = sorted(options.packages.glob("*.deb"))
    if not packages:
        raise Failed(f"there are no packages in {options.packages}; now: make deb")
    if options.key and not options.key.is_file():
        raise Failed(f"there is no key file {options.key}")
    sources = None
    if options.mirror or options.security_mirror:
        sources = mirror.sources(mirror=options.mirror, security_mirror=options.security_mirror)
    passphrase = options.passphrase_file.read_text().split("\n", 1)[0] if options.passphrase_file else ""
    folder = make(packages, options.output, key=options.key, passphrase=passphrase, sources=sources)
    print(f"\n{folder} is ready. Serve that folder, or use it here; on each machine, as root:\n")
    print(instructions(folder))
    if options.test_key:
        print("\nThe key was thrown away: this repository can't be added to, and says nothing about who made it.")
    return 0


if __name__ == "__main__":
    ended(main)

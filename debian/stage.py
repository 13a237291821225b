"""Fills the package's private Python environment, offline: `stage.py DESTINATION WHEELS`, run by debian/rules.

Everything that differs between two builds (paths, times, records of the installation) is left out.
"""

import shutil
import subprocess
import sys
from pathlib import Path

HOME = "/usr/lib/duxnet"
PYTHON = "python3.13"
SHEBANG = f"#!{HOME}/bin/python -I\n"
PROGRAMS = {"usr/bin": ["dux-ctl", "dux-devnet", "dux-devchain"]}
"""Folder → programs for people; the daemons' come with their own packages."""

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script.wheels import vendored  # noqa: E402


def run(*command: str | Path) -> None:
    """Run it; ends this program when it fails."""
    subprocess.run([*map(str, command)], check=True)


def fill(venv: Path, wheels: Path) -> None:
    """The environment with what is vendored, then our own code."""
    run(
        PYTHON,
        "-m",
        "venv",
        "--system-site-packages",
        "--without-pip",
        "--without-scm-ignore-files",
        "--symlinks",
        venv,
    )
    lock = Path("vendored.lock")
    lock.write_text(vendored(Path("requirements.lock").read_text(encoding="utf-8")), encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "--python", venv / "bin/python", "--quiet", "install", "--no-index", "--no-compile"]
    pip += ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--no-warn-script-location"]
    run(*pip, "--find-links", wheels, "--require-hashes", "-r", lock)
    run(*pip, ".")


def strip(venv: Path, scripts: set[str]) -> None:
    """Leave the interpreter, our programs and the modules."""
    for path in (venv / "bin").iterdir():
        if path.name in scripts:
            path.write_text(SHEBANG + path.read_text(encoding="utf-8").split("\n", 1)[1], encoding="utf-8")
        elif not path.name.startswith("python"):
            path.unlink()
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(f"/usr/bin/{PYTHON}")
    for name in ("python3", PYTHON):
        (venv / "bin" / name).unlink()
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {version}\n")
    for name in ("include", "share", "lib64"):
        path = venv / name
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
    packages = venv / "lib" / PYTHON / "site-packages"
    # What pip noted of this installation: whence and when; Debian's tools keep that.
    for info in packages.glob("*.dist-info"):
        for name in ("RECORD", "direct_url.json", "REQUESTED", "INSTALLER"):
            (info / name).unlink(missing_ok=True)
    for path in packages.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)


def compile_all(venv: Path) -> None:
    """Byte code with the hash of its source instead of a time, so that nothing has to be compiled on the machine."""
    run(
        PYTHON, "-I", "-m", "compileall", "-q", "-f", "-j1", "--invalidation-mode", "unchecked-hash",
        "-s", venv, "-p", HOME, venv / "lib" / PYTHON / "site-packages",
    )  # fmt: skip


def completions(destination: Path, venv: Path) -> None:
    """dux-ctl's completion for bash and zsh."""
    code = "import sys, argcomplete; print(argcomplete.shellcode(['dux-ctl'], shell=sys.argv[1]), end='')"
    for shell, path in (("bash", "bash-completion/completions/dux-ctl"), ("zsh", "zsh/vendor-completions/_dux-ctl")):
        done = subprocess.run(
            [venv / "bin/python", "-I", "-B", "-c", code, shell], capture_output=True, text=True, check=True
        )
        target = destination / "usr/share" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(done.stdout, encoding="utf-8")


def main() -> int:
    """Stage it all below the destination; the exit status."""
    destination, wheels = Path(sys.argv[1]), Path(sys.argv[2])
    venv = destination / HOME.lstrip("/")
    fill(venv, wheels)
    names = {path.name for path in (venv / "bin").glob("dux-*")}
    # Before the interpreter's own files go: it must still find itself here.
    strip(venv, names)
    completions(destination, venv)
    compile_all(venv)
    for folder, programs in PROGRAMS.items():
        (destination / folder).mkdir(parents=True, exist_ok=True)
        for name in programs:
            (destination / folder / name).symlink_to(f"{HOME}/bin/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

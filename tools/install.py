"""Make .venv and install the package into it; a second run finds nothing to do.

    python3 tools/install.py                 what `analyze` needs
    python3 tools/install.py workbook dev    with the extras of settings.ini

Uses uv where it is on the path, otherwise venv and pip. What was installed is noted in
.venv/installed.json together with a fingerprint of settings.ini, setup.py and pyproject.toml: when
one of them changes, the next run installs again. The file itself runs on any Python 3, to be able
to say which one is needed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOTE = VENV / "installed.json"


def settings():
    config = ConfigParser()
    config.read(str(ROOT / "settings.ini"), encoding="utf-8")
    return config["DEFAULT"]


def pythons():
    """The versions the package runs on, newest first, as (major, minor)."""
    low, high = (
        tuple(map(int, settings()[key].split("."))) for key in ("min_python", "max_python")
    )
    return [(3, minor) for minor in range(high[1], low[1] - 1, -1)]


def version(python):
    """(major, minor) of an interpreter, or None when it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        out = subprocess.run(
            [str(python), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        return tuple(map(int, out.stdout.split()))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def find_uv():
    uv = shutil.which("uv")
    if (
        uv
        and subprocess.run(
            [uv, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    ):
        return uv
    return None


def find_python():
    """This interpreter if it will do, else another one on the path, else None."""
    if tuple(sys.version_info[:2]) in pythons():
        return sys.executable
    for wanted in pythons():
        python = shutil.which("python{}.{}".format(*wanted))
        if python and version(python) == wanted:
            return python
    return None


def run(*command):
    print("+ " + " ".join(map(str, command)), flush=True)
    code = subprocess.run(
        [str(word) for word in command], cwd=str(ROOT), stdin=subprocess.DEVNULL
    ).returncode
    if code:
        sys.exit(code)


def make_venv(uv):
    python = find_python()
    names = ", ".join("{}.{}".format(*each) for each in reversed(pythons()))
    if uv:
        wanted = python or ">={}.{},<={}.{}.999".format(*pythons()[-1], *pythons()[0])
        run(uv, "venv", "--quiet", "--clear", "--python", wanted, VENV)
    elif python:
        try:
            run(python, "-m", "venv", "--clear", VENV)
        except SystemExit:
            sys.exit(
                "The virtual environment could not be made. On Debian and Ubuntu: apt-get "
                "install python3-venv"
            )
    else:
        sys.exit(
            f"brain_tumor needs Python {names}; this one is {sys.version.split()[0]}. "
            "Install one of them, or uv "
            "(https://docs.astral.sh/uv), and try again."
        )


def fingerprint():
    digest = hashlib.sha256()
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def note():
    try:
        return json.loads(NOTE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def main(extras):
    known = [key[: -len("_requirements")] for key in settings() if key.endswith("_requirements")]
    unknown = sorted(set(extras) - set(known))
    if unknown:
        sys.exit("No such extra: {}. There are: {}.".format(", ".join(unknown), ", ".join(known)))
    wanted, done = {"fingerprint": fingerprint(), "root": str(ROOT)}, note()
    fresh = (
        all(done.get(key) == value for key, value in wanted.items())
        and version(PYTHON) in pythons()
    )
    if fresh and set(extras) <= set(done["extras"]):
        return
    uv, moved = find_uv(), done.get("root", str(ROOT)) != str(ROOT)
    if moved or version(PYTHON) not in pythons():
        make_venv(uv)
        done = {}
    extras = sorted(set(extras) | set(done.get("extras", [])))
    what = ".[{}]".format(",".join(extras)) if extras else "."
    print(
        "Installing brain_tumor{} into .venv ...".format(
            " with " + " and ".join(extras) if extras else ""
        ),
        flush=True,
    )
    if uv:
        run(
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            PYTHON,
            "--compile-bytecode",
            "--editable",
            what,
        )
    else:
        run(
            PYTHON,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--editable",
            what,
        )
    NOTE.write_text(json.dumps(dict(wanted, extras=extras), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

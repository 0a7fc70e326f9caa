"""The package as others get it:

Built from what is under version control, installed where nothing else is.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "brain_tumor"
NEVER = {"nbs", "runs", "tests", "tools", "bench", "guides"}


def settings():
    config = ConfigParser()
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def run(*words, cwd, **more):
    """Run a command as someone would who has never seen this repository."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment | {"PYTHONUTF8": "1"} | more,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def dist(tmp_path_factory, tracked):
    """The folder with source archive and wheel, the wheel built from the archive.

    DIST names one that is built already.
    """
    if os.environ.get("DIST"):
        return Path(os.environ["DIST"]).resolve()
    pytest.importorskip("build", reason="needs build: pip install build")
    project = tmp_path_factory.mktemp("source") / "project"
    for path in tracked:
        target = project / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    done = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=project
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return project / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def inside(wheel):
    """{name: bytes} of what the wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def said(inside, name):
    """One of the files that describe the wheel."""
    return next(
        content for path, content in inside.items() if path.endswith(f".dist-info/{name}")
    ).decode()


def test_the_wheel_is_what_settings_ini_says(inside):
    from packaging.requirements import Requirement

    cfg, meta = settings(), message_from_string(said(inside, "METADATA"))
    assert (meta["Name"].replace("-", "_"), meta["Version"]) == (cfg["lib_name"], cfg["version"])
    major, minor = cfg["max_python"].split(".")
    assert set(meta["Requires-Python"].split(",")) == {
        f">={cfg['min_python']}",
        f"<{major}.{int(minor) + 1}",
    }
    assert meta["License-Expression"] == "Apache-2.0"
    assert set(meta.get_all("Provides-Extra")) == {"workbook", "dev"}
    found = {str(Requirement(line)).split(";")[0].strip() for line in meta.get_all("Requires-Dist")}
    asked = {
        str(Requirement(word)).split(";")[0].strip()
        for key in ("requirements", "workbook_requirements", "dev_requirements")
        for word in cfg[key].split()
    }
    assert found == asked
    assert "brain_tumor = brain_tumor.cli:main" in said(inside, "entry_points.txt")


def test_the_wheel_carries_the_library_whole_and_nothing_else(inside, tracked):
    ours = {path.relative_to(ROOT).as_posix(): path for path in tracked if LIBRARY in path.parents}
    library = {name for name in inside if ".dist-info/" not in name}
    assert library == set(ours), "files that are missing, or that should not be there"
    assert all(inside[name] == path.read_bytes() for name, path in ours.items()) or os.name == "nt"
    shipped = {path.name for path in (LIBRARY / "models" / "compact").iterdir()}
    assert {f"brain_tumor/models/compact/{name}" for name in shipped} <= library
    assert any(name.startswith("brain_tumor/samples/") for name in library)
    assert not {part for name in inside for part in Path(name).parts} & NEVER


def test_licence_and_notice_go_with_it(inside):
    for name in ("LICENSE", "NOTICE"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert said(inside, f"licenses/{name}").replace("\r\n", "\n") == text


def test_the_source_archive_can_be_built_from(dist, inside, tracked):
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {
        "setup.py",
        "pyproject.toml",
        "settings.ini",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "NOTICE",
    } <= names
    assert {name for name in inside if ".dist-info/" not in name} <= names


# ---- installed


def reachable(python, folder):
    """Whether packages can be had at all: one small one is asked for."""
    return (
        run(
            python,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            folder,
            "tqdm",
            cwd=folder,
        ).returncode
        == 0
    )


def give_up(reason):
    """Skip; but where DIST names what is about to be released, nothing is skipped."""
    (pytest.fail if os.environ.get("DIST") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """The Python of an environment with the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    if done.returncode:
        give_up(
            "no virtual environment can be made here: " + done.stdout[-200:] + done.stderr[-200:]
        )
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
        wheel,
    ]
    uv = shutil.which(
        "uv"
    )  # faster, but it reads no settings of pip, and may not know where packages are
    done = (
        run(uv, "pip", "install", "--quiet", "--python", python, wheel, cwd=folder) if uv else None
    )
    if done is None or done.returncode:
        done = run(*pip, cwd=folder)
    if done.returncode and not reachable(python, folder):
        give_up("no package index can be reached, so the wheel's requirements can't be installed")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return python


def test_the_wheel_works_where_nothing_else_is(empty, tmp_path):
    """One test for all of it:

    The environment takes longer to make than everything that is asked in it.
    """
    command = empty.with_name("brain_tumor.exe" if os.name == "nt" else "brain_tumor")
    done = run(command, "demo", "--out", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "shown" / "results.csv").stat().st_size > 0 and list(
        (tmp_path / "shown").glob("*.html")
    )
    code = (
        "import sys; from pathlib import Path; from brain_tumor import analyze, samples\n"
        "results = [analyze(path) for path in samples()]\n"
        "import brain_tumor; print(Path(brain_tumor.__file__).resolve())\n"
        "print(len(results), sum(result.status != 'refused' and result.predicted_class in "
        "str(path) for result, path in zip(results, samples())))\n"
        "print(*sorted({'tensorflow', 'keras', 'nbdev', 'IPython'} & set(sys.modules)))"
    )
    done = run(empty, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    place, counts, heavy = done.stdout.split("\n")[:3]
    assert Path(place).is_relative_to(empty.parent.parent.resolve()) and heavy.strip() == ""
    asked, right = map(int, counts.split())
    assert asked > 5 and right >= asked - 2, "the answers to the samples"
    listed = {
        line.split("==")[0].lower()
        for line in run(empty, "-m", "pip", "freeze", cwd=tmp_path).stdout.splitlines()
    }
    assert "onnxruntime" in listed and not listed & {
        "tensorflow",
        "tensorflow-cpu",
        "keras",
        "nbdev",
        "jupyterlab",
        "pytest",
    }
    assert run(empty, "-m", "pip", "check", cwd=tmp_path).returncode == 0

"""What the hosting site runs:

That it asks for little, fits settings.ini, and calls nothing that isn't there.
"""

import importlib.util
import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import release_notes  # noqa: E402

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
by_name = {"ids": lambda path: path.name}
WRITES = {
    "pages.yml": {"publish": {"pages", "id-token"}},
    "release.yml": {"publish": {"contents"}, "pypi": {"id-token"}},
}
USED = re.compile(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})|pypa/gh-action-pypi-publish@[0-9a-f]{40}")


def settings():
    config = ConfigParser()
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def pythons():
    """The versions that settings.ini promises, as "3.11"."""
    low, high = (
        tuple(map(int, settings()[key].split("."))) for key in ("min_python", "max_python")
    )
    return [f"3.{minor}" for minor in range(low[1], high[1] + 1)]


def workflow(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path):
    for job in workflow(path)["jobs"].values():
        yield from job["steps"]


def commands(text):
    """Return the command lines of a step as lists of words, without assignments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if ">" in words:
            words = words[: words.index(">")]
        if words:
            yield words


def test_there_are_three():
    assert [path.name for path in FILES] == ["pages.yml", "release.yml", "tests.yml"]
    guide = (ROOT / "nbs" / "guides" / "releasing.ipynb").read_text(encoding="utf-8")
    assert all(f".github/workflows/{path.name}" in guide for path in FILES)


@pytest.mark.parametrize("path", FILES, **by_name)
def test_a_workflow_asks_for_little(path):
    text, found = path.read_text(encoding="utf-8"), workflow(path)
    assert found["permissions"] == {"contents": "read"}
    assert "secrets." not in text and "pull_request_target" not in text
    assert found["concurrency"]["group"] and "cancel-in-progress" in found["concurrency"]
    for name, job in found["jobs"].items():
        wrote = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        assert wrote == WRITES.get(path.name, {}).get(name, set())
        assert 0 < job["timeout-minutes"] <= 120


@pytest.mark.parametrize("path", FILES, **by_name)
def test_what_others_wrote_is_known_and_pinned(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used and all(USED.fullmatch(name) for name in used)


def test_what_is_commented_out_needs_nothing_but_its_signs_gone():
    text = (FOLDER / "release.yml").read_text(encoding="utf-8")
    whole = yaml.safe_load(re.sub(r"^  # (?=  |pypi:)", "  ", text, flags=re.MULTILINE))
    before, job = yaml.safe_load(text)["jobs"], whole["jobs"].pop("pypi")
    assert whole["jobs"] == before and job["needs"] in before and 0 < job["timeout-minutes"] <= 120
    assert {key for key, value in job["permissions"].items() if value == "write"} == WRITES[
        "release.yml"
    ]["pypi"]
    assert all(USED.fullmatch(step["uses"]) for step in job["steps"])


def test_the_matrix_is_what_settings_ini_promises():
    matrix = workflow(FOLDER / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == pythons()
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    for path in FILES:
        asked = [
            step["with"]["python-version"]
            for step in steps(path)
            if step.get("uses", "").startswith("actions/setup-python")
        ]
        assert set(asked) <= {*pythons(), "${{ matrix.python }}"}


def missing(words):
    """What a command line names that is not there; None where all is."""
    tool, rest = words[0], words[1:]
    if tool == "make":
        targets = set(
            re.findall(
                r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
            )
        )
        return next((word for word in rest if "=" not in word and word not in targets), None)
    if tool == "brain_tumor":
        from brain_tumor.cli import build_parser

        try:
            build_parser().parse_args(rest)
        except SystemExit:
            return " ".join(words)
        return None
    if tool == "python" and rest[0] == "-m":
        if rest[1] == "pip":
            extras = {extra for word in rest for extra in re.findall(r"\.\[([\w,]+)\]", word)}
            return next(
                (
                    extra
                    for extra in ",".join(extras).split(",")
                    if extra and f"{extra}_requirements" not in settings()
                ),
                None,
            )
        files = [word for word in rest if word.endswith(".py")]
        return next(
            (name for name in [*files] if not (ROOT / name).is_file()),
            None if importlib.util.find_spec(rest[1]) else rest[1],
        )
    if tool == "python":
        if rest[0] == "tools/test_notebooks.py":
            from test_notebooks import choose

            names = [word for word in rest[1:] if "/" in word or "_" in word]
            return None if all(choose([name]) for name in names) else rest[0]
        return None if (ROOT / rest[0]).is_file() else rest[0]
    return None if tool == "gh" else tool


@pytest.mark.parametrize("path", FILES, **by_name)
def test_every_command_is_there(path):
    run = [words for step in steps(path) if "run" in step for words in commands(step["run"])]
    assert run and [(words, missing(words)) for words in run if missing(words)] == []


def test_the_check_sees_what_is_not_there():
    for line in (
        "make nonsense",
        "brain_tumor nonsense",
        "python -m pytest tests/test_nonsense.py",
        "python -m nonsense_module",
        "python tools/nonsense.py",
        'python -m pip install ".[nonsense]"',
        "nonsense",
    ):
        assert missing(shlex.split(line)), line


def test_the_site_is_published_from_where_it_is_built():
    uploaded = [
        step["with"]["path"]
        for step in steps(FOLDER / "pages.yml")
        if "upload-pages" in step.get("uses", "")
    ]
    assert uploaded == [settings()["doc_path"]]


# ---- the notes of a release

CHANGES = """# Changes

## 0.2.0

- One thing, told
  over two lines.
- **Another** of
  20 things and
  *some*:
  - a part.
  1. a first.

## 0.1.0

First.

## 0.0.1
"""


def test_notes_are_the_part_of_their_version():
    assert release_notes.notes(CHANGES, "0.2.0") == (
        "- One thing, told over two lines.\n- **Another** of 20 things and *some*:\n  - a "
        "part.\n  1. a first."
    )
    assert release_notes.notes(CHANGES, "0.1.0") == "First."
    for version, why in (
        ("0.0.1", "is empty"),
        ("0.3.0", "is missing; there are 0.2.0, 0.1.0, 0.0.1"),
    ):
        with pytest.raises(ValueError, match=why):
            release_notes.notes(CHANGES, version)


def test_a_tag_must_be_the_version():
    assert (
        release_notes.asked(["--tag", "v0.2.0"], "0.2.0")
        == "0.2.0"
        == release_notes.asked([], "0.2.0")
    )
    for words in (["--tag", "v0.1.0"], ["--tag", "0.2.0"], ["--tag"], ["0.1.0", "0.2.0"]):
        with pytest.raises(ValueError):
            release_notes.asked(words, "0.2.0")


def test_this_version_has_notes(capsys):
    release_notes.main([])
    assert len(capsys.readouterr().out) > 200
    with pytest.raises(SystemExit, match="is not v"):
        release_notes.main(["--tag", "v0.0.0"])

"""The rules of the layout:

Notebooks and library agree, packages import only packages before them.
"""

import ast
import base64
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from chapters import chapters, is_numbered, page_name, sections  # noqa: E402

# The order of the packages (and of the two modules beside them): each may import from those before
# it.
PACKAGES = (
    "io",
    "imaging",
    "metrics",
    "data",
    "training",
    "classification",
    "segmentation",
    "compact",
    "inference",
    "evaluation",
    "app",
    "cli",
)
LIBRARY = ROOT / "brain_tumor"
NOTEBOOKS = sorted(
    path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
GUIDES = [path for path in NOTEBOOKS if path.parent.name == "guides"]
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if not path.name.startswith("_"))
MEGABYTE = 1_000_000
by_name = {"ids": lambda path: path.name}


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def module(path):
    """The module that a notebook exports, or that a file of the library is, below `brain_tumor`.

    None without code.
    """
    if path.suffix == ".py":
        return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    found = re.search(
        r"^#\|\s*default_exp\s+(\S+)", "\n".join(map(source, cells(path))), re.MULTILINE
    )
    return found[1] if found else None


def package(path):
    """The package a module or a notebook belongs to.

    None for a notebook without code of its own.
    """
    name = module(path)
    return name.split(".")[0] if name else None


def python(*words, cwd=ROOT, **variables):
    """Run this Python with the tree at `cwd` first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(cwd), **variables}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory, tracked):
    """A copy of the project to try things on."""
    folder = tmp_path_factory.mktemp("house") / "project"
    for path in tracked:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return folder


# ---- notebooks and library


def test_the_notebooks_own_tests_passed():
    status = os.environ.get("NOTEBOOK_TESTS")
    if status is None:
        pytest.skip("the notebooks' tests were not run before: make test does both")
    assert status == "0", "nbdev_test failed: see its report above"


def test_the_library_is_what_the_notebooks_export(copy):
    before = {
        path.relative_to(copy): path.read_text(encoding="utf-8")
        for path in (copy / "brain_tumor").rglob("*.py")
    }
    done = python("-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    assert done.returncode == 0, done.stderr
    after = {
        path.relative_to(copy): path.read_text(encoding="utf-8")
        for path in (copy / "brain_tumor").rglob("*.py")
    }
    assert before.keys() == after.keys()
    assert [str(name) for name in before if before[name] != after[name]] == [], "run nbdev_export"


def test_the_notebooks_are_clean(copy):
    before = {
        path.relative_to(copy): path.read_text(encoding="utf-8")
        for path in (copy / "nbs").rglob("*.ipynb")
    }
    done = python("-c", "from nbdev.clean import nbdev_clean; nbdev_clean()", cwd=copy)
    assert done.returncode == 0, done.stderr
    after = {
        path.relative_to(copy): path.read_text(encoding="utf-8")
        for path in (copy / "nbs").rglob("*.ipynb")
    }
    assert [str(name) for name in before if before[name] != after[name]] == [], "run nbdev_clean"


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_notebooks_and_their_figures_stay_small(path):
    assert path.stat().st_size < MEGABYTE
    figures = [
        len(base64.b64decode("".join(data)))
        for cell in cells(path)
        for output in cell.get("outputs", [])
        for kind, data in output.get("data", {}).items()
        if kind in ("image/png", "image/jpeg")
    ]
    assert max(figures, default=0) <= 150_000


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_a_chapter_opens_with_title_and_promise_alone(path):
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert re.fullmatch(r"# [^\n]+\n+> [^\n]+\n*", source(first)), (
        "more than `# Title` and `> promise`"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_every_picture_has_a_text_for_those_who_cannot_see_it(path):
    missing = []
    for number, cell in enumerate(cells(path)):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            missing += [number for alt in re.findall(r"!\[([^\]]*)\]\(", text) if not alt.strip()]
            missing += [
                number
                for tag in re.findall(r"<img\b[^>]*>", text)
                if not re.search(r'\balt="[^"]+"', tag)
            ]
        elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            hidden = re.search(r"^#\|\s*hide\b", text, re.MULTILINE)
            if not hidden and not re.search(r"^#\|\s*fig-alt:\s*\S", text, re.MULTILINE):
                missing.append(number)
    assert missing == [], "cells whose picture has no alternative text (#| fig-alt: ...)"


def test_the_notebooks_and_the_library_are_the_same_tree():
    for path in NOTEBOOKS:
        name = module(path)
        if name and "." in name:
            folder, stem = path.parent.name, path.stem
            assert re.sub(r"^\d+_", "", folder) == name.split(".")[0], path
            assert re.sub(r"^\d+_", "", stem) == name.split(".")[1], path
    assert {module(path) for path in MODULES} == {module(path) for path in NOTEBOOKS} - {None}
    assert {package(path) for path in MODULES} == set(PACKAGES)


def test_the_site_lists_all_chapters_in_order():
    listed = chapters(ROOT)
    served = {"app.ipynb"}  # a page to be used, not read: its chapter is 11_app/01_app
    assert sorted(listed) == sorted(
        {path.relative_to(ROOT / "nbs").as_posix() for path in NOTEBOOKS} - served
    )
    for caption, names in sections(ROOT):
        parts = [name for name in names if "/" in name]
        assert len({name.split("/")[0] for name in parts}) <= 1, f"{caption}: one folder"
        numbers = [Path(name).name for name in parts if is_numbered(name)]
        assert parts[: len(numbers)] == sorted(parts[: len(numbers)]), f"{caption}: numbers first"
        counted = [int(name.split("_")[0]) for name in numbers]
        assert counted == list(range(1, len(counted) + 1)), f"{caption}: numbered from 1 on"
    folders = [name.split("/")[0] for name in listed if re.match(r"\d", name)]
    assert folders == sorted(folders), "the number of a folder is its place"


def test_the_reading_path_is_short_and_has_no_letters():
    names = [path.relative_to(ROOT / "nbs").as_posix() for path in NOTEBOOKS]
    assert sum(map(is_numbered, names)) <= 40
    assert not [name for name in names if re.search(r"(^|/)\d+[a-z]", name)]


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_a_notebook_has_at_most_sixty_cells(path):
    assert len(cells(path)) <= 60


# ---- the guides: pages without a number and without code of the library


def linked(path):
    """The notebooks that a notebook's prose links to."""
    prose = "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
    return {
        (path.parent / link).resolve()
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+\.ipynb)", prose)
    }


@pytest.mark.parametrize("path", GUIDES, **by_name)
def test_a_guide_hangs_together_with_the_chapters(path):
    assert not re.match(r"\d", path.name) and module(path) is None, (
        "a guide exports nothing and has no number"
    )
    assert any(link.parent != path.parent for link in linked(path)), (
        "it leads to the chapters behind it"
    )
    assert any(path in linked(other) for other in NOTEBOOKS if other != path), (
        "some page leads to it"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_links_between_notebooks_lead_somewhere(path):
    assert [link.name for link in linked(path) if not link.is_file()] == []


# ---- the library


def imported_packages(path):
    """(package, line) of everything a module imports from `brain_tumor`, inside functions too."""
    parents = ["brain_tumor", *path.relative_to(LIBRARY).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            whole = ".".join([*base, *filter(None, [node.module])])
            names = (
                [f"{whole}.{alias.name}" for alias in node.names]
                if whole == "brain_tumor"
                else [whole]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "brain_tumor":
                yield (parts[1] if len(parts) > 1 else ""), node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module(path))
def test_no_package_imports_upwards(path):
    here = PACKAGES.index(package(path))
    wrong = [
        (name, line)
        for name, line in imported_packages(path)
        if name != "__version__" and (name not in PACKAGES or PACKAGES.index(name) > here)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    names = {module(path): path for path in MODULES}
    found = {name: set() for name in names}
    for name, path in names.items():
        parents = ["brain_tumor", *path.relative_to(LIBRARY).parts[:-1]]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # what only annotations need is never imported
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = parents[: len(parents) - node.level + 1] if node.level else []
                whole = ".".join([*base, *filter(None, [node.module])])
                for target in (whole, *(f"{whole}.{alias.name}" for alias in node.names)):
                    target = target.removeprefix("brain_tumor.")
                    if target in names and target != name:
                        found[name].add(target)
    while free := [name for name, needs in found.items() if not needs & found.keys()]:
        for name in free:
            del found[name]
    assert found == {}, "modules that import each other"


def test_the_guard_sees_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", tmp_path)
    (tmp_path / "io").mkdir()
    path = tmp_path / "io" / "scan.py"
    path.write_text(
        "from ..inference.analyze import analyze\ndef f():\n    import brain_tumor.cli\n"
    )
    assert list(imported_packages(path)) == [("inference", 1), ("cli", 3)]


def test_a_public_name_is_defined_once():
    where = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [one.id for one in node.targets if isinstance(one, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                if not name.startswith("_"):
                    where.setdefault(name, set()).add(module(path))
    assert {name: sorted(places) for name, places in where.items() if len(places) > 1} == {}


def test_notebooks_tests_and_tools_are_formatted():
    for words in (("format", "--check", "."), ("check", ".")):
        done = python("-m", "ruff", *words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


HEAVY = (
    "tensorflow",
    "keras",
    "matplotlib",
    "pandas",
    "skimage",
    "scipy",
    "cv2",
    "numpy",
    "sklearn",
    "nilearn",
    "pydicom",
    "nibabel",
    "IPython",
)


def loaded_by(code):
    """Which of the heavy packages are in memory after `code` ran in a fresh Python."""
    done = python(
        "-c", f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_import_costs_next_to_nothing():
    assert loaded_by("import brain_tumor") == set()


def test_analysis_starts_without_training_and_drawing_packages():
    assert not loaded_by("from brain_tumor import analyze") & {
        "tensorflow",
        "keras",
        "matplotlib",
        "pandas",
        "sklearn",
        "nilearn",
    }


def test_the_front_door_has_what_it_names():
    done = python(
        "-c",
        "import brain_tumor; print(all(hasattr(brain_tumor, name) for name in "
        "brain_tumor.__all__)); "
        "brain_tumor.nonsense",
    )
    assert done.stdout.strip() == "True" and "no attribute 'nonsense'" in done.stderr


def public_functions():
    for path in MODULES:
        name = ".".join(["brain_tumor", *path.relative_to(LIBRARY).with_suffix("").parts])
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            function = getattr(module, public)
            if inspect.isfunction(function) and function.__module__ == name:
                yield name, public, function


def test_every_public_function_says_what_it_takes():
    from fastcore.docments import docments

    missing = []
    for module, name, function in public_functions():
        if not inspect.getdoc(function):
            missing.append(f"{module}.{name}: no docstring")
        words = docments(inspect.unwrap(function), returns=False)
        code = inspect.getsource(
            inspect.unwrap(function)
        )  # docments is blind to the comment beside `**name`
        missing += [
            f"{module}.{name}: {parameter}"
            for parameter, text in words.items()
            if not text and not re.search(rf"\*\*{parameter},? +# \S", code)
        ]
    assert missing == []


# ---- the package


def settings():
    config = ConfigParser()
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def test_requirements_survive_splitting_at_blanks():
    from nbdev.config import get_config
    from packaging.requirements import Requirement

    for key in ("requirements", "workbook_requirements", "dev_requirements"):
        words = settings()[key].split()
        assert words == get_config(path=ROOT)[key].split()
        names = [Requirement(word).name for word in words]
        assert len(set(names)) == len(names)
        assert all(
            re.search(r"[<=]", word.split(";")[0].replace(">=", ""))
            for word in words
            if not word.startswith("setuptools")
        ), "a requirement without an upper bound"
    markers = {
        Requirement(word).name: Requirement(word).marker
        for word in settings()["workbook_requirements"].split()
    }
    for system, machine, cpu in (
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),
        ("win32", "AMD64", False),
        ("darwin", "arm64", False),
    ):
        place = {"sys_platform": system, "platform_machine": machine}
        assert markers["tensorflow-cpu"].evaluate(place) is cpu
        assert markers["tensorflow"].evaluate(place) is not cpu


def test_versions_agree():
    import brain_tumor

    assert brain_tumor.__version__ == settings()["version"]
    assert f"\nversion: {settings()['version']}\n" in (ROOT / "CITATION.cff").read_text(
        encoding="utf-8"
    )
    assert f"## {settings()['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_is_what_its_notebook_gives():
    done = python("tools/build_readme.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 500
    for link in re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", text):
        assert (ROOT / link).is_file(), link


# ---- what must not be in the repository

TEXTS = {
    ".py",
    ".ipynb",
    ".md",
    ".txt",
    ".ini",
    ".toml",
    ".yml",
    ".yaml",
    ".json",
    ".csv",
    ".cff",
    ".css",
    ".html",
    "",
}


def test_no_file_names_a_place_on_somebodys_machine(tracked):
    place = re.compile(
        "|".join([r"(?<![\w.~])/" + "(?:work|root|home|Users)" + r"/\w", r"[A-Z]:\\Users\\"])
    )
    passing = re.compile(
        r"(?<![\w.~])/" + "tmp" + r"/\w"
    )  # in a recorded output it changes every time
    found = []
    for path in tracked:
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            hit = place.search(text) or (passing.search(text) if path.suffix == ".ipynb" else None)
            found += [f"{path.relative_to(ROOT)}: {hit[0]}"] if hit else []
    assert found == []


def test_no_scans_and_nothing_large(tracked):
    pictures = (
        ".dcm",
        ".nii",
        ".nii.gz",
        ".nrrd",
        ".mat",
        ".jpg",
        ".jpeg",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".png",
    )
    weights = (
        ".onnx",
        ".npz",
        ".h5",
        ".keras",
        ".pt",
        ".pth",
        ".tflite",
        ".ckpt",
        ".pkl",
        ".pickle",
    )
    made_by_us = ("brain_tumor/samples/", "nbs/images/", "tests/data/")
    names = {path.relative_to(ROOT).as_posix(): path for path in tracked}
    assert [
        name
        for name in names
        if name.lower().endswith(pictures) and not name.startswith(made_by_us)
    ] == []
    assert [
        name
        for name in names
        if name.lower().endswith(weights) and not name.startswith("brain_tumor/models/compact/")
    ] == []
    assert [name for name in names if name.lower().endswith((".pkl", ".pickle"))] == []
    model = sum(
        path.stat().st_size
        for name, path in names.items()
        if name.startswith("brain_tumor/models/compact/")
    )
    assert model <= 12 * MEGABYTE
    assert max(path.stat().st_size for path in tracked) <= 12 * MEGABYTE


# ---- the tools


def test_install_finds_nothing_to_do_the_second_time(tmp_path, monkeypatch):
    import install

    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    commands = []
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(install, "NOTE", tmp_path / "installed.json")
    monkeypatch.setattr(install, "run", lambda *words: commands.append(" ".join(map(str, words))))
    install.main([])
    install.main([])
    assert len(commands) == 1 and commands[0].endswith(" .")
    install.main(["workbook", "dev"])
    install.main(["dev"])
    install.main([])
    assert len(commands) == 2 and commands[1].endswith(".[dev,workbook]")
    with open(tmp_path / "settings.ini", "a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    install.main([])
    assert len(commands) == 3 and commands[2].endswith(".[dev,workbook]"), (
        "extras stay when the base is asked for"
    )
    with pytest.raises(SystemExit, match="No such extra: nonsense"):
        install.main(["nonsense"])


def test_the_notebook_runner_names_what_failed(tmp_path, monkeypatch, capsys):
    import nbformat
    import test_notebooks

    new = nbformat.v4
    cases = {
        "good": "1 + 1",
        "bad": "1 / 0",
        "gone": "import os\nos._exit(3)",
        "spoiled": "import sys\nsys.stderr = None\n1 / 0",  # what reports the error fails, too
    }
    for name, text in cases.items():
        nbformat.write(
            new.new_notebook(cells=[new.new_code_cell(text)]), tmp_path / f"{name}.ipynb"
        )
    monkeypatch.setattr(test_notebooks, "SECONDS", tmp_path / "nowhere" / "seconds.json")
    monkeypatch.setattr(test_notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("NOTEBOOKS_FOLDER", str(tmp_path))
    failed = test_notebooks.run_all([f"{name}.ipynb" for name in cases], 1)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(failed) == ["bad.ipynb", "gone.ipynb", "spoiled.ipynb"]
    assert lines[0].startswith("Testing 4 notebooks") and len(lines) == 6
    with pytest.raises(SystemExit):
        test_notebooks.choose(["no_such_folder"])
    assert test_notebooks.choose(["02_io/dicom"]) == ["02_io/dicom.ipynb"]


def test_notebooks_are_recorded_stably(tmp_path):
    import nbformat

    new = nbformat.v4
    path = tmp_path / "chapter.ipynb"
    nbformat.write(
        new.new_notebook(
            cells=[
                new.new_code_cell("import sys\nprint('noise', file=sys.stderr)\nprint('kept')"),
                new.new_code_cell(
                    "#| eval: false\nraise RuntimeError",
                    outputs=[new.new_output("stream", text="old")],
                ),
                new.new_code_cell("from ipywidgets import IntSlider\nIntSlider()"),
                new.new_code_cell("import brain_tumor\n6 * 7"),
            ]
        ),
        path,
    )
    texts = []
    for _ in range(2):
        done = python(ROOT / "tools" / "exec_nb.py", path)
        assert done.returncode == 0, done.stderr
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    found = [
        [output.get("text") or output["data"] for output in cell.get("outputs", [])]
        for cell in cells(path)
    ]
    assert found == [[["kept\n"]], [["old"]], [], [{"text/plain": ["42"]}]]
    assert "skip-execution" not in texts[0]
    nbformat.write(new.new_notebook(cells=[new.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    done = python(ROOT / "tools" / "exec_nb.py", path)
    assert (
        done.returncode == 1 and "ZeroDivisionError" in done.stderr and path.read_bytes() == before
    )


def test_links_are_checked(tmp_path):
    from check_links import check

    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#here">b</a><a href="#top">t</a>'
        '<a href="https://example.org">elsewhere, by hand</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p>')
    assert check(tmp_path) == (2, [], [])
    (tmp_path / "b.html").write_text(
        '<a href="c.html">c</a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "s.css").write_text("@import url('//example.org/font.css');")
    count, broken, outside = check(tmp_path)
    assert (count, broken) == (3, ["a.html: b.html#here", "b.html: c.html"])
    assert outside == ["b.html: https://example.org/x.js", "s.css: //example.org/font.css"]


def test_the_site_builds_without_a_broken_link_or_an_outside_request(copy):
    pytest.importorskip("sphinx")
    from check_links import check

    hidden = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not shutil.which("quarto", path=folder)
    )
    done = python("tools/build_docs.py", cwd=copy, PATH=hidden)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    count, broken, outside = check(copy / "_docs")
    assert count > 100 and broken == [] and outside == []
    pages = {
        path.relative_to(copy / "_docs").as_posix() for path in (copy / "_docs").rglob("*.html")
    }
    assert {f"{page_name(name)}.html" for name in chapters(ROOT)} <= pages
    index = (copy / "_docs" / "index.html").read_text(encoding="utf-8")
    places = [
        index.index(f'href="{page_name(name)}.html"')
        for name in chapters(ROOT)
        if name != "index.ipynb"
    ]
    assert places == sorted(places), "the order of _quarto.yml"

"""Recorded runs in the explorer: its views show what the reports state; in Chromium they react."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("ipywidgets", reason="widgets come with the extra `workbook`")
pytest.importorskip("anywidget", reason="widgets come with the extra `workbook`")

from browsers import ROOT, ink, lab, notebook, run_all, voila  # noqa: E402
from example_runs import write_example_segmentation_run  # noqa: E402

from brain_tumor import samples  # noqa: E402
from brain_tumor.app.explorer import SMALL_COUNT, Explorer  # noqa: E402
from brain_tumor.app.views import plain_words  # noqa: E402
from brain_tumor.classification.report import confusion_counts, operating_points, write_feature_map  # noqa: E402
from brain_tumor.io.scan import CLASSES  # noqa: E402
from brain_tumor.segmentation.comparison import dice_by_group  # noqa: E402
from brain_tumor.training.runs import load_run, write_example_run, write_predictions  # noqa: E402


def write_set(folder):
    """A dataset of the bundled phantoms, each at four exposures."""
    import pandas as pd

    rows = []
    (folder / "images").mkdir(parents=True)
    for path in (path for path in samples() if path.suffix == ".png"):
        for number in range(4):
            name = f"images/{path.stem}-{number}.png"
            cv2.imwrite(
                str(folder / name),
                cv2.convertScaleAbs(cv2.imread(str(path), 0), alpha=1 - 0.2 * number),
            )
            rows.append(
                {
                    "image": name,
                    "class": path.stem.rsplit("-", 1)[0],
                    "group": path.stem,
                    "role": "test",
                }
            )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "manifest.csv", index=False)
    return table


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Phantoms, a run with predictions on them, another run without, and two segmentation runs."""
    folder = tmp_path_factory.mktemp("explore")
    table = write_set(folder / "data" / "phantoms")
    run = write_example_run(folder / "runs" / "asked", distance=1.5)
    seen = table.assign(source="phantoms", disputed=False, set="phantoms", role="test")
    label = seen["class"].map(CLASSES.index).to_numpy()
    noise = np.random.default_rng(0).normal(size=(len(seen), 4)) + 1.2 * np.eye(4)[label]
    p = np.exp(2 * noise) / np.exp(2 * noise).sum(1, keepdims=True)
    write_predictions(seen, p, run / "predictions.csv")
    write_feature_map(seen, p, run / "map.csv")
    write_example_run(folder / "runs" / "beside")
    for name, quality in (("unet", 0.75), ("resunet", 0.6)):
        write_example_segmentation_run(folder / "runs" / name, name, quality)
    return folder


@pytest.fixture(scope="module")
def run(place):
    return load_run(place / "runs" / "asked").only(role="test")


@pytest.fixture(scope="module")
def cell(run):
    """The cell off the diagonal with the highest count."""
    counts = confusion_counts(run)[list(CLASSES)].to_numpy() * (1 - np.eye(4, dtype=int))
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    return int(row), int(column), int(counts[row, column])


# ---------------------------------------------------------------- without a browser


def test_views_show_what_the_reports_compute(place, run, cell):
    page = Explorer(place / "runs", place / "data")
    assert (
        page.choice.run.value == "asked"
        and page.confusion.grid.counts == confusion_counts(run)[list(CLASSES)].to_numpy().tolist()
    )
    page.confusion.grid.chosen = f"{cell[0]},{cell[1]}"
    assert (
        page.confusion.gallery.value.count("<img") == min(cell[2], SMALL_COUNT)
        and run.provenance in page.choice.provenance.value
    )
    page.tabs.selected_index = 1
    for level, of in ((0.2, "glioma"), (0.75, "no_tumor")):
        page.threshold.level.value, page.threshold.of.value = level, of
        at = operating_points(run, level).set_index("of").loc[of]
        assert (
            f"Sensitivity {at['sensitivity']:.3f}" in page.threshold.words.value
            and f"Specificity {at['specificity']:.3f}" in page.threshold.words.value
        )
    page.tabs.selected_index = 2
    page.map.kinds[CLASSES.index("glioma")].value = False
    assert len(page.map.visible_rows()) == (run.predictions["class"] != "glioma").sum()
    page.tabs.selected_index = 4
    small = (
        dice_by_group([load_run(place / "runs" / "unet")], "third").set_index("third").loc["small"]
    )
    assert (
        f"{small['dice']:.3f} ({small['dice_low']:.3f} to {small['dice_high']:.3f})"
        in page.outlines.table.value
    )


def test_files_are_the_reports_own(place, run):
    import pandas as pd

    page = Explorer(place / "runs")
    for panel, name in (
        (page.confusion, "confusion"),
        (page.threshold, "threshold"),
        (page.map, "map"),
        (page.curves, "curves"),
        (page.outlines, "dice_by"),
    ):
        page.tabs.selected_index = page.tabs.children.index(panel)
        for kind in ("png", "csv"):
            file, media, content = panel.give(kind)
            assert (
                name in file
                and file.endswith(f".{kind}")
                and media == {"png": "image/png", "csv": "text/csv"}[kind]
            )
            if kind == "png":
                assert np.ptp(cv2.imdecode(np.frombuffer(content, np.uint8), 0)) > 200
            else:
                assert len(pd.read_csv(io.BytesIO(content)))
    kept = pd.read_csv(io.BytesIO(page.confusion.give("csv")[2]))
    assert (kept[list(CLASSES)].to_numpy() == confusion_counts(run)[list(CLASSES)].to_numpy()).all()


@pytest.mark.parametrize(
    "runs, data, name",
    [
        ("nowhere", "", "nowhere"),
        ("runs", "nowhere", "nowhere"),
        ("data", "", "data"),
        ("", "", "run.json"),
    ],
)
def test_a_wrong_folder_is_reported_and_changes_nothing(place, runs, data, name):
    page = Explorer(place / "runs")
    page.choice.folder.value, page.choice.data.value = (
        str(place / name) if name else "" for name in (runs, data)
    )
    notes = page.choice.note.value + page.choice.data_note.value
    assert "bt-bad" in notes and name in notes and page.run is not None
    page.tabs.selected_index = 1
    assert "Sensitivity" in page.threshold.words.value


def test_a_damaged_run_is_named(place, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{", encoding="utf-8")
    page = Explorer(place / "runs")
    page.choice.folder.value = str(tmp_path)
    assert "run.json" in page.choice.note.value and "bt-bad" in page.choice.note.value
    note = Explorer(tmp_path / "bad").choice.note.value
    assert "bt-bad" in note and str(tmp_path / "bad") in note


def test_the_recorded_runs_open(root):
    page = Explorer(root / "runs")
    names = [value for _, value in page.choice.run.options]
    assert len(names) > 10 and np.sum(page.confusion.grid.counts) > 500
    for name in names:
        page.choice.run.value = name
        for tab in range(3):
            page.tabs.selected_index = tab
            assert "bt-bad" not in page.choice.provenance.value
    for name, is_control in (("shuffled_labels_honest", True), ("inception_v3_honest", False)):
        page.choice.run.value = name
        assert ("Control run" in page.choice.provenance.value) == is_control


def test_every_control_has_a_name(place):
    import ipywidgets as w

    def below(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from below(child)

    controls = (w.Button, w.Text, w.Dropdown, w.FloatSlider, w.Checkbox, w.SelectMultiple)
    assert [
        type(one).__name__
        for one in below(Explorer(place / "runs"))
        if isinstance(one, controls) and not one.description.strip()
    ] == []


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def notebooks(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    notebook(
        folder / "explore.ipynb",
        f"from brain_tumor.app.explorer import Explorer\nExplorer({str(place / 'runs')!r}, "
        f"{str(place / 'data')!r})",
    )
    return folder


@pytest.fixture(scope="module")
def voila_at(browser, notebooks, tmp_path_factory):
    with voila(notebooks, tmp_path_factory.mktemp("log") / "voila.log") as address:
        yield address


def tab(page, name):
    page.locator(".bt-tabs .lm-TabBar-tab", has_text=name).click()


def downloaded(page, text):
    with page.expect_download() as coming:
        page.locator(".bt-downloads button:visible", has_text=text).click()
    return coming.value.suggested_filename, Path(coming.value.path()).read_bytes()


def press(page, handle, key, times):
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def threshold_moves(page, run):
    """Move the slider by the keyboard; the sentence follows the report."""
    tab(page, "ROC")
    press(page, page.locator(".bt-level .noUi-handle"), "ArrowLeft", 30)
    at = operating_points(run, 0.2).set_index("of").loc["glioma"]
    page.locator(".bt-point", has_text=f"Sensitivity {at['sensitivity']:.3f}").wait_for()
    page.locator(".bt-point", has_text=f"Specificity {at['specificity']:.3f}").wait_for()
    before = operating_points(run, 0.5).set_index("of").loc["glioma"]
    assert (before["sensitivity"], before["specificity"]) != (at["sensitivity"], at["specificity"])
    assert ink(page.locator(".bt-figure img[alt*='threshold 0.20']"))["colours"] > 50


def test_a_cell_opens_its_images_and_files_are_saved(visit, voila_at, run, cell):
    page = visit(voila_at("explore.ipynb"))
    page.locator(f".bt-grid [data-cell='{cell[0]},{cell[1]}']").click()
    page.locator(".bt-gallery img").first.wait_for()
    assert page.locator(".bt-gallery img").count() == min(cell[2], SMALL_COUNT)
    shown = ink(page.locator(".bt-gallery img").first)
    assert shown["width"] == 150 and shown["colours"] > 30, "a phantom, not a blank"
    assert f"true {plain_words(CLASSES[cell[0]])}" in page.locator(
        ".bt-gallery img"
    ).first.get_attribute("alt")
    name, content = downloaded(page, "PNG")
    assert (
        name == "asked_confusion.png"
        and np.ptp(cv2.imdecode(np.frombuffer(content, np.uint8), 0)) > 200
    )
    name, content = downloaded(page, "CSV")
    assert name == "asked_confusion.csv" and len(content.decode().splitlines()) == 5
    press(page, page.locator(".bt-grid [data-cell='0,0']"), "Enter", 1)
    page.locator(".bt-cell", has_text="True glioma, predicted glioma").wait_for()
    press(page, page.locator(f".bt-grid [data-cell='{cell[0]},{cell[1]}']"), "Enter", 1)
    page.locator(
        ".bt-cell",
        has_text="True {}, predicted {}".format(
            *(plain_words(CLASSES[number]) for number in cell[:2])
        ),
    ).wait_for()
    page.locator(".bt-data input").fill("")
    page.locator(".bt-data input").press("Enter")
    page.locator(".bt-cell", has_text="Runs record names only").wait_for()
    assert page.locator(".bt-gallery img").count() == 0 and page.locator(
        ".bt-gallery figcaption"
    ).count() == min(cell[2], SMALL_COUNT)
    page.locator(".bt-run select").select_option("beside")
    page.locator(".bt-mark", has_text="240 pictures").wait_for()


def test_the_threshold_moves_and_the_map_is_filtered(visit, voila_at, run):
    page = visit(voila_at("explore.ipynb"), width=820, height=1100)
    page.locator(".bt-grid button").first.wait_for()
    threshold_moves(page, run)
    tab(page, "t-SNE map")
    marks = page.locator(".bt-map path")
    page.wait_for_function(
        "n => document.querySelectorAll('.bt-map path').length === n", arg=len(run.predictions)
    )
    page.locator(".bt-kind-glioma input").uncheck()
    left = int((run.predictions["class"] != "glioma").sum())
    page.wait_for_function("n => document.querySelectorAll('.bt-map path').length === n", arg=left)
    assert page.locator(".bt-map path[data-kind=glioma]").count() == 0
    page.locator(".bt-map-note", has_text=f"{left} points").wait_for()
    box = marks.first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(".bt-map p", has_text=", group ").wait_for()
    first = page.locator(".bt-map p").inner_text()
    press(page, page.locator(".bt-map svg"), "ArrowRight", 1)
    assert page.locator(".bt-map p").inner_text() != first and ".png" in first
    assert len(downloaded(page, "CSV")[1].decode().splitlines()) == left + 1
    tab(page, "Dice by size")
    assert ink(page.locator(".bt-figure img[alt*='Box plots']"))["width"] > 500
    tab(page, "Curves")
    assert ink(page.locator(".bt-figure img[alt*='Curves of']"))["colours"] > 50
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "nothing sticks out on a tablet"
    )


def test_in_jupyterlab(visit, notebooks, run, tmp_path):
    with lab(notebooks, tmp_path / "lab.log") as address:
        page = visit(address("explore.ipynb"))
        run_all(page)
        page.locator(".bt-grid button").first.wait_for(timeout=60_000)
        threshold_moves(page, run)
        name, content = downloaded(page, "CSV")
        assert name == "asked_threshold_0.20.csv" and len(content.decode().splitlines()) == 5
        cells = page.locator(".jp-Cell").count()
        tab(page, "Confusion matrix")
        for button in (".bt-grid [data-cell='0,0']", ".bt-downloads button:visible"):
            page.locator(button).first.focus()
            for letter in "abxx":
                page.keyboard.press(letter)
            assert page.locator(".jp-Cell").count() == cells, (
                "a letter on a button is no command to the notebook"
            )


def test_the_chapter_opens_as_a_page(visit, browser, tmp_path):
    with voila(ROOT / "nbs", tmp_path / "voila.log") as address:
        page = visit(address("11_app/explore.ipynb"))
        page.locator(".bt-grid button").first.wait_for(timeout=60_000)
        assert page.locator("h2", has_text="Confusion matrix").count() == 1

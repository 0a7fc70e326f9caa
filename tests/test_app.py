"""The page: without a browser, what it keeps and refuses; in Chromium, what a user sees."""

import base64
import gzip
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from browsers import ROOT, ink, lab, notebook, run_all, voila
from dicoms import dicom, in_bytes
from test_bad_input import bomb, encoded

from brain_tumor import samples
from brain_tumor.app.app import App
from brain_tumor.inference.single_scan import EMPTY_MASK
from brain_tumor.io.errors import BrainTumorError
from brain_tumor.io.scan import CLASSES

SAMPLES = {path.name: path for path in samples("all")}
WAIT = 30_000  # milliseconds, for whatever a slow machine takes long for


# ---------------------------------------------------------------- without a browser


def bad_files():
    """Name and content of everything that can't be a scan."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    picture, flat = encoded(noise, "PNG"), encoded(np.full((64, 64), 7, np.uint8), "PNG")
    damaged = bytearray(picture)
    damaged[len(damaged) // 2] ^= 0x55
    mask = dicom(noise)
    del mask.PixelData
    return {
        "empty.png": b"",
        "letter.png": b"Dear colleague,\n" * 40,
        "cut.png": picture[:2000],
        "damaged.png": bytes(damaged),
        "cut.jpg": encoded(noise, "JPEG")[:1500],
        "bomb.png": bomb(20_000, 20_000),
        "small.png": encoded(noise[:20, :20].copy(), "PNG"),
        "flat.png": flat,
        "report.pdf": b"%PDF-1.7\n" + bytes(200),
        "archive.zip": b"PK\x03\x04" + bytes(500),
        "notes.nii.gz": gzip.compress(b"no volume in here" * 50),
        "cut.nii.gz": gzip.compress(bytes(1000))[:-20],
        "half.dcm": in_bytes(dicom(noise))[:600],
        "report.dcm": in_bytes(mask),
        "noise.tif": b"II*\0" + bytes(range(250)),
        "../../sneaky.png": b"",
        "name\nwith a line.png": b"",
        "ü" * 300 + ".png": b"text",
    }


@pytest.fixture()
def app(monkeypatch):
    return App()


def drop(app, name, content):
    """What the browser does with a file, piece by piece."""
    zone = app.intake.zone
    zone.receive({"kind": "start", "id": name, "name": name, "size": len(content)}, [])
    for at in range(0, len(content), 1 << 21):
        zone.receive({"kind": "piece", "id": name}, [content[at : at + (1 << 21)]])
    app.reader.submit(lambda: None).result()


def said(app):
    return app.intake.message.value


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_every_bad_file_is_refused_by_name_and_the_page_lives(app):
    for number, (name, content) in enumerate(bad_files().items(), 1):
        drop(app, name, content)
        card = app.cards[number]
        own = name.split("/")[-1]
        assert card["state"] == "refused" and card["title"] == own and len(card["text"]) > 20
        assert str(app.session.folder) not in said(app) + card["text"]
    assert app.predict() is None and "no scan" in said(app)
    app.choose(2)
    assert "can’t be used" in app.outcome.empty.value and "holds text" in app.outcome.empty.value
    drop(app, "fine.png", SAMPLES["glioma-axial.png"].read_bytes())
    app.predict().result()
    assert app.result.predicted_class == "glioma"


def test_of_ten_files_three_are_broken_and_seven_go_on(app):
    bad = list(bad_files().items())[1:4]
    good = [
        (f"{i}-{path.name}", path.read_bytes()) for i, path in enumerate(list(SAMPLES.values())[:7])
    ]
    for name, content in [good[0], bad[0], *good[1:4], bad[1], *good[4:], bad[2]]:
        drop(app, name, content)
    assert app.intake.predict.description == "Predict 7 scans"
    app.predict().result()
    assert "7 scans analysed. 3 files were refused" in said(app)
    assert (
        len(app.past) == 7
        and sorted(card["state"] for card in app.cards.values()) == ["done"] * 7 + ["refused"] * 3
    )
    assert app.intake.predict.description == "Predict"


def test_what_is_no_brain_is_not_judged_until_somebody_insists(app):
    noise = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
    drop(app, "noise.png", encoded(noise, "PNG"))
    app.predict().result()
    assert app.answer == 0 and app.past == {} and app.cards[1]["state"] == "unjudged"
    assert "<h2>Not analysed</h2>" in app.outcome.empty.value and "noise.png" in said(app)
    drop(app, "head.png", SAMPLES["meningioma-coronal.png"].read_bytes())
    app.predict().result()
    assert [card["state"] for card in app.cards.values()] == ["unjudged", "done"], (
        "what wasn't judged is not asked about again by the way"
    )
    app.choose(1)
    assert "<h2>Not analysed</h2>" in app.outcome.empty.value
    app.intake.check_input.value = False
    app.predict().result()
    assert app.cards[1]["state"] == "done" and app.result.source == "noise.png"
    assert "noise.png" in json.loads(app.give("json")[2])["source"]


def test_an_uncertain_answer_says_so_in_every_place(app):
    class Torn:
        name = "torn"

        def __call__(self, scan):
            from types import SimpleNamespace

            return SimpleNamespace(
                probabilities=[0.9, 0.1, 0, 0],
                mask_probability=np.zeros(scan.pixels.shape),
                threshold=0.5,
            )

    app.load(SAMPLES["glioma-axial.png"]).result()
    app.prediction.predict(Torn(), app.session.files.get(1), "compact")
    app.show(1)
    assert "uncertain" in app.outcome.head.value and "uncertain" in app.past[1]["title"]
    assert EMPTY_MASK in app.outcome.head.value and EMPTY_MASK not in app.outcome.notes.value
    assert json.loads(app.give("json")[2])["status"] == "uncertain"
    assert EMPTY_MASK in app.give("report")[2].decode()


def test_a_file_of_201_megabytes_is_refused_before_a_byte_of_it_moved(app):
    app.intake.zone.receive(
        {"kind": "start", "id": "1", "name": "large.nii", "size": 201_000_000}, []
    )
    assert "201 MB" in said(app) and "200 MB" in said(app) and app.intake.zone.coming == {}
    assert list(app.session.folder.glob("*/large.nii")) == []


def test_a_browser_that_lies_about_the_size_is_not_believed(app):
    zone = app.intake.zone
    zone.receive({"kind": "start", "id": "1", "name": "a.png", "size": 10}, [])
    zone.receive({"kind": "piece", "id": "1"}, [bytes(11)])
    assert app.cards[1]["state"] == "refused" and list(app.session.folder.glob("*/a.png")) == []


def test_a_path_too_large_is_refused_as_an_upload_is(app, tmp_path):
    with open(tmp_path / "large.nii", "wb") as file:
        file.truncate(201_000_000)
    app.load(tmp_path / "large.nii").result()
    assert "200 MB" in said(app) and str(tmp_path) not in said(app)


def test_a_second_click_starts_nothing(app, monkeypatch):
    import threading

    go = threading.Event()
    app.load(SAMPLES["glioma-axial.png"]).result()
    engine = slow_engine(go)
    monkeypatch.setattr("brain_tumor.app.app.find_engine", lambda which: engine)
    first, second = app.predict(), app.predict()
    assert first is second and not first.done() and app.busy
    go.set()
    first.result()
    assert engine.asked == 1 and len(app.past) == 1
    app.predict().result()
    assert engine.asked == 1 and len(app.past) == 1, (
        "the same slice by the same engine: the answer is there"
    )


class slow_engine:
    """Answers when it may, and counts."""

    name, asked = "slow", 0

    def __init__(self, go=None, problem=None):
        self.go, self.problem = go, problem

    def __call__(self, scan):
        from brain_tumor.inference.engines import Prediction

        if self.go:
            assert self.go.wait(60)
        if self.problem:
            raise self.problem
        self.asked += 1
        likely = np.zeros(scan.pixels.shape, np.float32)
        likely[10:30, 20:50] = 0.9
        return Prediction(np.array([0.7, 0.1, 0.1, 0.1]), likely)


@pytest.mark.parametrize(
    "problem",
    [RuntimeError("out of luck"), BrainTumorError("engine: it gave up. Try again."), MemoryError()],
)
def test_nothing_is_lost_when_a_prediction_fails(app, monkeypatch, problem):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.stroke([(0.5, 0.5)])
    before = app.result.to_dict(full=True)
    app.load(SAMPLES["meningioma-axial.png"]).result()
    monkeypatch.setattr(
        "brain_tumor.app.app.find_engine", lambda which: slow_engine(problem=problem)
    )
    app.predict().result()
    assert "bt-bad" in said(app) and (
        str(problem) in said(app) or type(problem).__name__ in said(app)
    )
    assert not app.busy and app.cards[2]["state"] == "ready"
    monkeypatch.undo()
    app.show(1)
    assert app.result.to_dict(full=True) == before
    app.choose(2)
    app.predict().result()
    assert app.result.predicted_class == "meningioma"


def test_the_engine_is_loaded_once(app, monkeypatch):
    from brain_tumor.inference import engines
    from brain_tumor.io import files

    started = []
    engines.load_engine.cache_clear()
    monkeypatch.setattr(
        engines, "start_session", lambda *words: started.append(1) or true_start(*words)
    )
    true_start = files.start_session
    for name in ("glioma-axial.png", "glioma-coronal.png", "no_tumor-axial.png"):
        app.load(SAMPLES[name]).result()
        app.predict().result()
    assert started == [1] and len(app.past) == 3
    engines.load_engine.cache_clear()


@pytest.mark.parametrize(
    "folder, reason", [("", "No folder was typed"), ("nowhere", "nowhere"), (".", "manifest")]
)
def test_a_folder_that_holds_no_engine_is_refused_kindly(
    app, folder, reason, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.intake.engine.value, app.intake.folder.value = "folder", folder
    job = app.predict()
    job and job.result()
    assert "bt-bad" in said(app) and reason in said(app) and "Traceback" not in said(app)
    app.intake.engine.value = "compact"
    app.predict().result()
    assert app.result.predicted_class == "glioma"


def test_spacing_from_the_file_typed_and_wrong(app):
    app.load(SAMPLES["meningioma-coronal-dicom.dcm"]).result()
    assert (
        app.intake.spacing.value == "0.771063" and "From the file" in app.intake.spacing_hint.value
    )
    app.predict().result()
    own = app.result.features.surface
    app.intake.spacing.value = "1.542126"
    assert (
        app.result.features.surface == pytest.approx(4 * own)
        and "by hand" in app.intake.spacing_hint.value
    )
    app.intake.spacing.value = "half a millimetre"
    assert (
        "bt-bad" in app.intake.spacing_hint.value
        and app.result.features.surface == pytest.approx(4 * own)
    )
    assert app.predict() is None and "half a millimetre" in said(app)
    app.intake.spacing.value = ""
    assert app.result.features.surface == pytest.approx(own)
    app.load(SAMPLES["glioma-axial.png"]).result()
    assert app.intake.spacing.value == ""
    app.predict().result()
    assert "px²" in app.outcome.sizes.value and "Pixel spacing" in app.outcome.sizes.value
    app.intake.spacing.value = "0.8"
    assert "cm²" in app.outcome.sizes.value and app.result.spacing_source == "given"


def test_slices_of_a_volume(app):
    app.load(SAMPLES["meningioma-volume.nii.gz"]).result()
    assert (
        app.intake.slice.max == 4
        and app.intake.slice.value == 2
        and app.intake.slice.layout.display is None
    )
    app.predict().result()
    app.intake.slice.value = 1
    app.reader.submit(lambda: None).result()
    assert app.opened.slice == 1 and app.answer == 0 and "Not analysed" in app.outcome.empty.value
    app.predict().result()
    assert [app.session.answers.get(number).base.scan.slice_index for number in (1, 2)] == [2, 1]
    app.intake.plane.value = 0
    app.reader.submit(lambda: None).result()
    assert "too small" in said(app) and app.opened.scan.axis == 2 and app.intake.plane.value == 2
    app.show(1)
    assert app.intake.slice.value == 2 and app.answer == 1
    assert not list(SAMPLES["meningioma-volume.nii.gz"].parent.glob("*.raw")), (
        "the unpacked copy lies with the session"
    )
    app.load(SAMPLES["glioma-axial.png"]).result()
    assert app.intake.slice.layout.display == "none" == app.intake.plane.layout.display
    assert len(app.past) == 2


def test_pictures_and_frames_in_one_file_have_a_slider(app):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (5, 64, 64)).astype(np.uint8)
    pages, out = [Image.fromarray(one) for one in noise], io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    drop(app, "five.tif", out.getvalue())
    drop(app, "frames.dcm", in_bytes(dicom(noise, NumberOfFrames=5)))
    for number in (1, 2):
        app.choose(number)
        assert (
            app.intake.slice.max == 4
            and app.opened.slice == 2
            and app.intake.plane.layout.display == "none"
        )
        app.intake.slice.value = 4
        app.reader.submit(int).result()
        assert app.opened.slice == 4 and np.array_equal(
            app.opened.scan.pixels, noise[4] / np.float32(255)
        )


def test_a_name_is_text_and_nothing_else(app):
    name = "<img src=x onerror=alert(1)>.png"
    drop(app, name, SAMPLES["glioma-axial.png"].read_bytes())
    drop(app, name, SAMPLES["meningioma-axial.png"].read_bytes())
    drop(app, name, b"no picture")
    app.predict().result()
    app.worker.submit(int).result()
    app.outcome.compare.value = app.outcome.compare.options[1][1]
    outcome, intake = app.outcome, app.intake
    shown = [
        outcome.head,
        outcome.scan,
        outcome.overlay,
        outcome.mask,
        outcome.heat,
        outcome.comparison,
        outcome.sizes,
        intake.preview,
        intake.message,
    ]
    app.choose(3)
    assert "onerror" in outcome.head.value and "onerror" in outcome.empty.value
    assert [one for one in [*shown, outcome.empty] if "<img src=x" in one.value] == []
    assert "<img src=x" not in app.session.answers.get(1).result._repr_html_()


def test_a_click_while_a_file_is_on_its_way(app):
    app.intake.zone.receive({"kind": "start", "id": "1", "name": "a.png", "size": 10}, [])
    assert app.predict() is None and "bt-bad" in said(app) and "upload" in said(app)
    app.load(SAMPLES["glioma-axial.png"])
    app.predict().result()
    assert app.result.predicted_class == "glioma", "what is being read is waited for"


def test_no_tumor_is_a_quiet_state_and_can_be_corrected(app):
    app.load(SAMPLES["no_tumor-axial.png"]).result()
    app.predict().result()
    assert "No tumor detected" in app.outcome.head.value and "bt-none" in app.outcome.head.value
    assert app.outcome.threshold.disabled and app.result.features is None and app.result.notes == ()
    app.stroke([(0.5, 0.5)])
    assert app.result.features and "corrected by hand" in app.outcome.head.value
    app.undo()
    assert app.result.features is None and app.result.notes == ()


def test_a_correction_is_what_is_saved_and_the_files_say_so(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    before = app.result
    app.outcome.correct.value = True
    app.outcome.bench.canvas.receive({"kind": "stroke", "points": [[0.7, 0.7], [0.8, 0.7]]})
    app.outcome.bench.tool.value = True
    y, x = (axis.mean() for axis in np.nonzero(before.mask))
    app.outcome.bench.canvas.receive({"kind": "stroke", "points": [[x / 288, y / 288]]})
    told = json.loads(app.give("json")[2])
    saved = cv2.imdecode(np.frombuffer(app.give("mask")[2], np.uint8), 0) > 0
    added, gone = (saved & ~before.mask).sum(), (before.mask & ~saved).sum()
    assert (
        added > 200
        and gone > 20
        and saved.sum() == told["mask"]["pixels"] == before.mask.sum() + added - gone
    )
    assert told["model"]["mask"] == "corrected by hand" and told["model"]["pixels_added"] == added
    assert (
        told["features"]["surface"]
        == pytest.approx(saved.sum())
        == pytest.approx(app.result.features.surface)
    )
    assert (
        "corrected by hand" in app.give("report")[2].decode()
        and "corrected by hand" in app.past[1]["text"]
    )
    app.outcome.threshold.value = 0.6
    assert any("0.60" in note for note in app.result.notes) and app.result.mask.sum() < saved.sum()
    app.start_over()
    app.outcome.threshold.value = before.threshold
    assert app.result.to_dict(full=True) == before.to_dict(full=True)


def test_what_speaks_for_the_class_stands_beside_the_mask(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.worker.submit(int).result()
    why = app.entry.heats["class"]
    assert (
        why.label == "glioma"
        and why.heat.shape == app.result.mask.shape
        and 0 <= why.heat.min() < why.heat.max() <= 1
    )
    assert why.sentence[:60] in app.outcome.heat_words.value and "<img" in app.outcome.heat.value
    assert str(why.method) in app.outcome.heat_words.value
    app.outcome.heat_of.value = "mask"
    assert "mask" in app.outcome.heat.value and why.sentence not in app.outcome.heat_words.value


def test_an_explanation_that_fails_costs_nothing_else(app, monkeypatch):
    from brain_tumor.inference.result import Analysis

    def fails(self, *words, **named):
        raise BrainTumorError("no explanation here")

    monkeypatch.setattr(Analysis, "explain", fails)
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.worker.submit(int).result()
    assert "no explanation here" in said(app) and app.outcome.heat_of.value == "mask"
    assert "<img" in app.outcome.heat.value and app.result.predicted_class == "glioma"


def test_comparing_two_answers(app):
    for name in ("glioma-axial.png", "meningioma-axial.png"):
        app.load(SAMPLES[name]).result()
        app.predict().result()
    assert [value for _, value in app.outcome.compare.options] == [0, 1]
    app.outcome.compare.value = 1
    assert (
        app.outcome.comparison.value.count("bt-side") == 2
        and "Surface" in app.outcome.comparison.value
    )
    app.show(1)
    assert app.outcome.comparison.layout.display == "none", "nothing is compared with itself"


def test_a_history_of_many_answers_stays_small_in_memory(app, monkeypatch):
    monkeypatch.setattr("brain_tumor.app.app.find_engine", lambda which: slow_engine())
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        drop(app, f"{number}.png", encoded(rng.integers(0, 255, (64, 64)).astype(np.uint8), "PNG"))
    app.predict().result()
    app.show(1)
    app.stroke([(0.1, 0.1)])
    assert (
        len(app.past) == 12
        and len(app.session.answers.near) == 8
        and len(app.session.files.near) == 8
    )
    for number, source in enumerate(
        [12, *range(1, 12)], 1
    ):  # the one in view was asked about first
        app.show(number)
        assert app.result.source == f"{source}.png" and ("mask" in app.result.engine) == (
            number == 1
        )
    assert len(app.session.answers.near) == 8


def test_the_measure_of_the_memory_predicts_different_slices():
    from bench import app as measure

    made = measure.predictions(12)
    assert (
        len(made["seconds"]) == 12
        and all(value > 0 for value in made["seconds"])
        and made["memory"] == []
    )
    if Path("/proc/self/statm").exists():
        assert measure.resident() > 50_000_000


def test_the_session_s_folder_goes_with_it():
    app = App()
    folder = app.session.folder
    assert folder.is_dir()
    app.session._folder.cleanup()
    assert not folder.exists()


def test_a_prediction_leaves_tensorflow_and_matplotlib_alone():
    code = (
        "import sys; from brain_tumor.app.app import App; a = App(); light = 'onnxruntime' "
        "not in sys.modules; "
        "a.load(next(iter(a.samples.values()))).result(); a.predict().result(); assert "
        "a.result, a.intake.message.value; "
        "print(light, [n for n in ('tensorflow', 'keras', 'matplotlib', 'pandas', "
        "'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True []", done.stdout + done.stderr


@pytest.fixture()
def block(tmp_path):
    """A volume whose planes have pixels of different sizes."""
    import nibabel as nib

    picture = cv2.imread(str(SAMPLES["glioma-axial.png"]), 0)[::4, ::4]
    path = tmp_path / "block.nii"
    nib.save(
        nib.Nifti1Image(np.repeat(picture[:, :, None], 70, axis=2), np.diag([0.5, 0.5, 5, 1])), path
    )
    return path


def test_a_typed_spacing_belongs_to_a_plane_and_to_all_answers_about_it(app, block):
    app.intake.check_input.value = False  # the block is no head in all its planes
    app.load(block).result()
    plane, own = app.opened.scan.axis, app.opened.scan.spacing
    app.predict().result()
    app.intake.slice.value += 1
    app.reader.submit(int).result()
    app.predict().result()
    app.intake.spacing.value = "0.9"
    assert [app.session.answer(number).result.spacing for number in (1, 2)] == [(0.9, 0.9)] * 2
    app.intake.plane.value = (plane + 1) % 3
    app.reader.submit(int).result()
    assert (
        app.opened.typed is None
        and app.opened.scan.spacing != own
        and "From the file" in app.intake.spacing_hint.value
    )
    app.show(1)
    assert (
        app.opened.typed == (0.9, 0.9) == app.result.spacing and app.intake.spacing.value == "0.9"
    )
    app.intake.spacing.value = ""
    assert app.session.answer(2).result.spacing == own and app.result.spacing_source == "file"


def test_a_refused_spacing_stays_in_the_field_whatever_else_is_painted(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.intake.spacing.value = "1e9"
    app.refresh()
    assert (
        app.intake.spacing.value == "1e9"
        and "1e9" in app.intake.spacing_hint.value
        and app.result.spacing is None
    )
    app.intake.spacing.value = "0.5"
    assert "by hand" in app.intake.spacing_hint.value and app.result.spacing == (0.5, 0.5)


def test_an_answer_doesn_t_push_the_reader_back_to_another_slice(app, monkeypatch):
    import brain_tumor.app.app as app_module

    app.load(SAMPLES["meningioma-volume.nii.gz"]).result()
    go, analyze = threading.Event(), app_module.analyze
    monkeypatch.setattr(
        app_module, "analyze", lambda scan, **options: (go.wait(30), analyze(scan, **options))[1]
    )
    job = app.predict()
    while not app.intake.message.value or "Analysing" not in app.intake.message.value:
        time.sleep(0.01)
    app.intake.slice.value = 1
    app.reader.submit(int).result()
    go.set()
    job.result()
    assert (
        app.opened.slice == 1
        and app.answer == 0
        and "Not analysed" in app.outcome.empty.value
        and len(app.past) == 1
    )
    app.show(1)
    assert app.opened.slice == 2


def test_a_file_that_arrives_leaves_the_hand_at_work_alone(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.outcome.correct.value = True
    app.load(SAMPLES["meningioma-axial.png"]).result()
    assert (
        app.file == app.answer == 1
        and "meningioma-axial.png is open" in app.intake.message.value
        and len(app.cards) == 2
    )
    app.stroke([(0.5, 0.5), (0.6, 0.6)])
    assert app.result.engine["mask"] == "corrected by hand"
    assert [app.give(kind)[0] for kind in ("overlay", "mask", "json", "report")] == [
        "glioma-axial_corrected_overlay.png",
        "glioma-axial_corrected_mask.png",
        "glioma-axial_corrected.json",
        "glioma-axial_corrected_report.html",
    ]
    assert "Engine compact" in app.give("report")[2].decode()


def test_the_heat_map_is_a_choice_of_two_ways_and_the_outline(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.predict().result()
    app.worker.submit(int).result()
    app.outcome.heat_of.value = "grad-cam"
    app.worker.submit(int).result()
    heats = app.session.answer(1).heats
    assert (
        heats["class"].method == "contributions"
        and heats["grad-cam"].method == "grad-cam"
        and "grad-cam" in app.outcome.heat_words.value
    )
    assert np.abs(heats["class"].heat - heats["grad-cam"].heat).max() > 0.1


def test_a_home_that_isn_t_there(app):
    app.load(SAMPLES["glioma-axial.png"]).result()
    app.intake.engine.value, app.intake.folder.value = "folder", "~nobody-of-this-name/model"
    assert app.predict() is None and "no such home folder" in app.intake.message.value


def test_every_control_has_a_name(app):
    import ipywidgets as w

    def below(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from below(child)

    nameless = [
        type(one).__name__
        for one in below(app)
        if isinstance(
            one,
            (
                w.Button,
                w.Text,
                w.Dropdown,
                w.FloatSlider,
                w.IntSlider,
                w.ToggleButtons,
                w.ToggleButton,
            ),
        )
        and not one.description.strip()
    ]
    assert nameless == []


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """The page, and one with ipywidgets' own upload, which sends a file as one message."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(ROOT / "nbs" / "app.ipynb", folder / "app.ipynb")
    notebook(
        folder / "upload.ipynb",
        "import ipywidgets as w\nupload, told = w.FileUpload(), w.HTML()\n"
        "upload.observe(lambda change: setattr(told, 'value', f'got "
        "{len(change.new[0].content)} bytes'), 'value')\n"
        "w.VBox([upload.add_class('up'), told.add_class('told')])",
    )
    return folder


@pytest.fixture(scope="module")
def voila_at(browser, notebooks, tmp_path_factory):
    with voila(notebooks, tmp_path_factory.mktemp("log") / "voila.log") as address:
        yield address


@pytest.fixture()
def page(visit, voila_at):
    page = visit(voila_at("app.ipynb"))
    page.locator(".bt-predict").wait_for()
    return page


def upload(page, *paths):
    page.locator(".bt-intake input[type=file]").set_input_files([str(path) for path in paths])


def files(page, count):
    page.wait_for_function(
        "n => document.querySelectorAll('.bt-files .bt-card').length === n", arg=count
    )
    return page.locator(".bt-files .bt-card")


def history(page, count):
    page.wait_for_function(
        "n => document.querySelectorAll('.bt-history .bt-card').length === n", arg=count
    )
    return page.locator(".bt-history .bt-card")


def predict(page, name):
    """Click, and wait for the headline of this class."""
    page.locator(".bt-predict").click()
    page.locator(".bt-headline h2", has_text=name).wait_for()


def downloaded(page, text):
    with page.expect_download() as coming:
        page.locator(".bt-downloads button", has_text=text).click()
    return coming.value.suggested_filename, Path(coming.value.path()).read_bytes()


def slide(page, name, presses, key="ArrowRight"):
    """Move a slider by the keyboard; what its readout says then."""
    handle = page.locator(f".{name} .noUi-handle")
    handle.focus()
    for _ in range(presses):
        page.keyboard.press(key)
    return page.locator(f".{name} .widget-readout")


def draw(page, canvas, *places):
    """Draw a stroke with the mouse over (x, y) fractions of the canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    first, *others = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places
    ]
    page.mouse.move(*first), page.mouse.down()
    for place in others:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def until(page, what):
    """Wait until a thing is true, without asking the browser in between."""
    end = time.monotonic() + WAIT / 1000
    while not what():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(50)


def test_from_an_upload_to_files_on_disk(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(SAMPLES["glioma-axial.png"].read_bytes()[:3000])
    upload(
        page,
        SAMPLES["glioma-axial.png"],
        SAMPLES["meningioma-coronal-dicom.dcm"],
        tmp_path / "broken.png",
    )
    cards = files(page, 3)
    assert (
        "ends too early" in cards.nth(2).inner_text()
        and "ends too early" in page.locator(".bt-message").inner_text()
    )
    assert page.locator(".bt-spacing input").input_value() == "0.771063"
    assert ink(page.locator(".bt-preview img"))["colours"] > 50
    assert page.locator(".bt-predict").inner_text() == "Predict 2 scans"
    predict(page, "Meningioma")
    history(page, 2)
    bars = page.locator(".bt-bars tr")
    assert (
        bars.count() == len(CLASSES)
        and "Meningioma" in bars.first.inner_text()
        and "%" in bars.first.inner_text()
    )
    table = page.locator(".bt-sizes-view").inner_text()
    assert "Surface" in table and "cm²" in table and "from the file" in table
    scan, over, mask, heat = (
        ink(page.locator(f".bt-pane-{name} img")) for name in ("scan", "overlay", "mask", "heat")
    )
    assert (
        scan["colours"] > 50
        and scan["green"] == 0
        and over["green"] > 300
        and heat["colours"] > scan["colours"]
    )
    assert mask["colours"] == 2 and over["green"] * 0.7 < mask["white"] < over["green"] * 1.5
    name, content = downloaded(page, "JSON")
    told = json.loads(content)
    assert (
        name == "meningioma-coronal-dicom.json"
        and told["predicted_class"] == "meningioma"
        and told["spacing"]["source"] == "file"
    )
    name, content = downloaded(page, "Mask")
    saved = cv2.imdecode(np.frombuffer(content, np.uint8), 0)
    assert (
        name == "meningioma-coronal-dicom_mask.png"
        and (saved > 0).sum() == told["mask"]["pixels"] == mask["white"]
    )
    assert cv2.imdecode(np.frombuffer(downloaded(page, "Overlay")[1], np.uint8), 1).shape == (
        *saved.shape,
        3,
    )
    name, content = downloaded(page, "Report")
    report = page.context.browser.new_page()
    report.set_content(content.decode())
    assert "meningioma" in report.inner_text(
        "body"
    ) and "not a medical device" in report.inner_text("body")
    assert [
        ink(report.locator("img").nth(i))["colours"] > 1
        for i in range(report.locator("img").count())
    ] == [True] * 3
    report.close()
    cards.nth(2).click()
    page.locator(".bt-empty", has_text="can’t be used").wait_for()
    cards.nth(0).click()
    page.locator(".bt-headline h2", has_text="Glioma").wait_for()
    assert (
        "px²" in page.locator(".bt-sizes-view").inner_text()
        and "“Pixel spacing”" in page.locator(".bt-sizes-view").inner_text()
    )
    page.locator(".bt-spacing input").fill("0.8")
    page.keyboard.press("Tab")
    page.locator(".bt-sizes-view", has_text="cm²").wait_for()


def test_samples_slices_engines_history(page, tmp_path):
    from brain_tumor.io.files import MODELS

    shutil.copytree(MODELS / "compact", tmp_path / "mine")
    page.locator(".bt-predict").click()
    page.locator(".bt-message", has_text="no scan to analyse yet").wait_for()
    page.locator(".bt-sample select").select_option("meningioma-volume.nii.gz")
    page.locator(".bt-open-sample").click()
    page.locator(".bt-preview", has_text="slice 2 of 0 to 4").wait_for()
    predict(page, "Meningioma")
    assert slide(page, "bt-slice", 1).inner_text() == "3"
    page.locator(".bt-preview", has_text="slice 3 of 0 to 4").wait_for()
    page.locator(".bt-empty", has_text="Not analysed yet").wait_for()
    page.locator(".bt-predict").dblclick()
    history(page, 2)
    page.locator(".bt-engine select").select_option(index=1)
    page.locator(".bt-folder input").fill(str(tmp_path / "nowhere"))
    page.locator(".bt-predict").click()
    page.locator(".bt-message.bt-bad", has_text="nowhere").wait_for()
    page.locator(".bt-folder input").fill(str(tmp_path / "mine"))
    page.locator(".bt-predict").click()
    history(page, 3)
    page.locator(".bt-sample select").select_option("no_tumor-axial.png")
    page.locator(".bt-open-sample").click()
    page.locator(".bt-preview", has_text="no_tumor-axial.png").wait_for()
    predict(page, "No tumor detected")
    assert page.locator(".bt-sizes-view table").count() == 0
    history(page, 4).nth(3).click()
    page.locator(".bt-headline", has_text="slice 2").wait_for()
    assert page.locator(".bt-history .bt-card[aria-pressed=true]").count() == 1
    page.locator(".bt-compare-with select").select_option(index=2)
    assert (
        page.locator(".bt-comparison .bt-side").count() == 2
        or page.locator(".bt-comparison .bt-side").nth(1).wait_for() is None
    )
    assert ink(page.locator(".bt-comparison img").nth(1))["green"] > 300
    assert "Surface" in page.locator(".bt-comparison").inner_text()


def test_sliders_brush_and_eraser(page):
    page.locator(".bt-open-sample").click()
    page.locator(".bt-preview img").wait_for()
    predict(page, "Glioma")
    mask, over = page.locator(".bt-pane-mask img"), page.locator(".bt-pane-overlay img")
    white, green = ink(mask)["white"], ink(over)["green"]
    slide(page, "bt-threshold", 30)
    until(page, lambda: ink(mask)["white"] < white)
    slide(page, "bt-threshold", 30, "ArrowLeft")
    until(page, lambda: ink(mask)["white"] == white)
    slide(page, "bt-opacity", 1, "Home")
    until(page, lambda: ink(over)["green"] < green / 10)
    slide(page, "bt-opacity", 1, "End")
    until(page, lambda: ink(over)["green"] >= green)
    page.locator(".bt-correct-toggle").click()
    canvas = page.locator(".bt-canvas canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    until(page, lambda: ink(canvas)["green"] > 100)
    before, live = ink(canvas)["green"], page.locator(".bt-live-sizes")
    first = live.inner_text()
    draw(page, canvas, (0.6, 0.3), (0.7, 0.3))
    page.locator(".bt-live-sizes", has_text="added by hand").wait_for()
    assert live.inner_text() != first
    until(page, lambda: ink(canvas)["green"] > before)
    until(page, lambda: ink(mask)["white"] > white)
    drawn = ink(mask)["white"]
    page.locator(".bt-tool button", has_text="Eraser").click()
    draw(page, canvas, (0.65, 0.3))
    until(page, lambda: white < ink(mask)["white"] < drawn)
    page.locator(".bt-undo").click()
    until(page, lambda: ink(mask)["white"] == drawn)
    told = json.loads(downloaded(page, "JSON")[1])
    assert told["model"]["mask"] == "corrected by hand" and told["mask"]["pixels"] == drawn
    canvas.focus()
    page.keyboard.press("z")
    until(page, lambda: ink(mask)["white"] == white)
    page.keyboard.press("e")
    page.locator(".bt-tool button.mod-active", has_text="Brush").wait_for()
    page.keyboard.down(" ")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.up(" ")
    until(page, lambda: ink(mask)["white"] > white)


def test_dropping_and_files_of_every_size(page, tmp_path, visit, voila_at):
    large = np.random.default_rng(0).integers(0, 255, (4000, 4000)).astype(np.uint8)
    cv2.circle(large, (2000, 2000), 900, 255, -1)
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", large)[1].tobytes())
    assert (tmp_path / "large.png").stat().st_size > 12_000_000
    with open(tmp_path / "too large.nii", "wb") as file:
        file.truncate(201_000_000)
    upload(page, tmp_path / "too large.nii", tmp_path / "large.png")
    cards = files(page, 2)
    assert (
        all(size in cards.nth(0).inner_text() for size in ("201 MB", "200 MB"))
        and "Ready" in cards.nth(1).inner_text()
    )
    data = base64.b64encode(SAMPLES["glioma-axial.png"].read_bytes()).decode()
    page.locator(".bt-drop").evaluate(
        """(zone, data) => {
      const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), carried = new DataTransfer();
      carried.items.add(new File([bytes], "dropped.png"));
      zone.dispatchEvent(new DragEvent("dragover", {dataTransfer: carried, bubbles: true, cancelable: true}));
      zone.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
    }""",  # noqa: E501
        data,
    )
    files(page, 3)
    page.locator(".bt-predict").click()
    page.locator(".bt-headline h2", has_text="Glioma").wait_for()
    page.locator(".bt-unjudged").wait_for()  # noise of any size is no head
    page.locator(".bt-gate input").uncheck()
    page.locator(".bt-unjudged").click()
    page.locator(".bt-predict").click()
    history(page, 2)


def test_the_server_takes_a_message_of_15_megabytes(visit, voila_at, tmp_path):
    one_message_of_15_megabytes(visit(voila_at("upload.ipynb")), tmp_path)


def one_message_of_15_megabytes(page, tmp_path):
    (tmp_path / "15.bin").write_bytes(bytes(15_000_000))
    with page.expect_file_chooser() as chooser:
        page.locator(".up").click()
    chooser.value.set_files(tmp_path / "15.bin")
    page.locator(".told", has_text="got 15000000 bytes").wait_for()


NAMES = """root => [...root.querySelectorAll("button, input, select, canvas, img, [role=slider], progress")].filter(e => e.checkVisibility()).map(e => {
  const label = e.id && document.querySelector(`label[for="${CSS.escape(e.id)}"]`);
  return [e.outerHTML.slice(0, 90), e.getAttribute("aria-label") || e.alt || label?.textContent || e.closest("label")?.textContent || e.innerText || (e.closest("button") && e.alt === "" ? "part of a button" : "")];
}).filter(([, name]) => !name.trim()).map(([html]) => html)"""  # noqa: E501


@pytest.mark.parametrize("width, height", [(1280, 720), (820, 1180)])
def test_names_for_everything_and_nothing_wider_than_the_page(visit, voila_at, width, height):
    page = visit(voila_at("app.ipynb"), width, height)
    page.locator(".bt-open-sample").click()
    page.locator(".bt-preview img").wait_for()
    predict(page, "Glioma")
    page.locator(".bt-correct-toggle").click()
    page.locator(".bt-canvas canvas[aria-label*=marked]").wait_for()
    page.wait_for_function(
        "document.querySelectorAll('.bt-app [role=slider]:not([aria-label])').length === 0"
    )
    page.locator(".bt-app [aria-live=polite]", has_text="Done").wait_for()
    assert page.locator(".bt-app").evaluate(NAMES) == []
    wide = page.locator(".bt-app").evaluate(
        "root => [...root.querySelectorAll('*')].filter(e => e.checkVisibility() && "
        "!e.closest('.bt-cards, .noUi-base') && e.getBoundingClientRect().right > "
        "innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"
    )
    assert wide == []
    assert (
        page.title() == "Brain tumours in MRI slices"
        and page.locator("html").get_attribute("lang") == "en"
    )
    columns = page.locator(".bt-columns").evaluate(
        "e => getComputedStyle(e).gridTemplateColumns.split(' ').length"
    )
    assert columns == (2 if width == 1280 else 1)
    assert "not a medical device" in page.locator(".bt-use").inner_text()


def kernels():
    psutil = pytest.importorskip("psutil", reason="counts processes")
    return sum(
        "ipykernel_launcher" in " ".join(one.cmdline())
        for one in psutil.Process().children(recursive=True)
        if one.status() != psutil.STATUS_ZOMBIE
    )


def test_a_page_that_is_left_or_loaded_anew_takes_its_kernel_along(visit, voila_at):
    before = kernels()
    page = visit(voila_at("app.ipynb"))
    page.locator(".bt-predict").wait_for()
    page.reload()
    page.locator(".bt-predict").wait_for()
    until(page, lambda: kernels() <= before + 1)
    page.goto("about:blank")
    until(page, lambda: kernels() <= before)


WIDE = """root => [document.documentElement, ...root.querySelectorAll("p, h2, h3, th, td, li, .widget-label, .bt-panel")]
  .filter(e => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 90))"""  # noqa: E501


@pytest.mark.parametrize("width", [1280, 320])
def test_a_long_name_and_every_label_stay_inside_the_page(visit, voila_at, width):
    page = visit(voila_at("app.ipynb"), width, 800)
    page.locator(".bt-predict").wait_for()
    page.locator(".bt-intake input[type=file]").set_input_files(
        {
            "name": "n" * 300 + ".png",
            "mimeType": "image/png",
            "buffer": SAMPLES["glioma-axial.png"].read_bytes(),
        }
    )
    files(page, 1)
    predict(page, "Glioma")
    page.locator(".bt-correct-toggle").click()
    page.locator(".bt-canvas canvas[aria-label*=marked]").wait_for()
    assert page.locator(".bt-app").evaluate(WIDE) == []


def test_in_jupyterlab(browser, visit, notebooks, tmp_path):
    with lab(notebooks, tmp_path / "lab.log") as address:
        page = visit(address("app.ipynb"), 1400, 900)
        run_all(page)
        page.locator(".bt-predict").wait_for()
        upload(
            page,
            SAMPLES["glioma-axial.png"],
            SAMPLES["meningioma-coronal-dicom.dcm"],
            ROOT / "README.md",
        )
        assert "holds text" in files(page, 3).nth(2).inner_text()
        predict(page, "Meningioma")
        history(page, 2)
        over, mask = (
            ink(page.locator(".bt-pane-overlay img")),
            ink(page.locator(".bt-pane-mask img")),
        )
        assert (
            over["green"] > 300
            and mask["white"] > 300
            and "cm²" in page.locator(".bt-sizes-view").inner_text()
        )
        page.locator(".bt-correct-toggle").click()
        canvas = page.locator(".bt-canvas canvas")
        canvas.wait_for()
        canvas.focus()
        page.keyboard.press("Space")
        page.locator(".bt-live-sizes", has_text="added by hand").wait_for()
        told = json.loads(downloaded(page, "JSON")[1])
        assert (
            told["model"]["mask"] == "corrected by hand" and told["predicted_class"] == "meningioma"
        )
        canvas.focus()
        page.keyboard.press("z")
        page.locator(".bt-live-sizes", has_text="as predicted").wait_for()
        upload_page = visit(address("upload.ipynb"))
        run_all(upload_page)
        one_message_of_15_megabytes(upload_page, tmp_path)

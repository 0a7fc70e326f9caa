"""The whole flow on files, folders, volumes and bad input, with engines whose answer is known."""

import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from errors import raises

from brain_tumor.imaging.samples import sample_truth, samples
from brain_tumor.inference.analyze import analyze
from brain_tumor.inference.result import RESULT_COLUMNS, Analysis, write_result_page
from brain_tumor.inference.single_scan import EMPTY_MASK
from brain_tumor.inference.streaming import pipelined
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import BrainTumorError, ErrorCode
from brain_tumor.io.pages import png_bytes
from brain_tumor.io.scan import CLASSES, INTENDED_USE, Scan


def oracle(scan):
    "Knows the truth of the bundled samples."
    truth = sample_truth(scan.source)
    return answer(truth.tumor, truth.mask)


def answer(name, mask):
    odds = np.where(np.array(CLASSES) == name, 0.94, 0.02)
    return SimpleNamespace(
        probabilities=odds, mask_probability=mask.astype(np.float32), threshold=0.5
    )


def bright(scan):
    "Calls the brightest pixels a glioma; works on any picture."
    return answer("glioma", scan.pixels > 0.8)


def picture(number, size=64):
    "A grey picture with one bright square; its number decides where."
    values = np.full((size, size), 60, np.uint8)
    row, column = 4 + number % 40, 4 + number // 40 % 40
    values[row : row + 8, column : column + 12] = 255
    return values


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(values))
    return path


# ---------------------------------------------------------------- one scan


def test_samples_come_out_as_the_engine_says():
    for path in samples():
        truth, result = (
            sample_truth(path),
            analyze(path, spacing=sample_truth(path).spacing, engine=oracle),
        )
        assert result.predicted_class == truth.tumor and result.confidence == pytest.approx(0.94)
        assert np.array_equal(result.mask, truth.mask) and result.mask.dtype == bool
        area = truth.mask.sum() * truth.spacing[0] * truth.spacing[1] / 100
        assert (result.features is None) == (truth.tumor == "no_tumor")
        assert result.features is None or result.features.surface == pytest.approx(area)


def test_no_tumor_stops_the_flow_whatever_the_mask():
    painted = analyze(
        picture(0), engine=lambda scan: answer("no_tumor", np.ones(scan.pixels.shape))
    )
    assert not painted.mask.any() and painted.features is None and painted.notes == ()
    assert painted.to_dict() == {
        "message": "No tumor detected",
        "features": None,
        "Combined images": None,
    }


def test_a_class_without_mask_is_said():
    result = analyze(
        picture(0), spacing=1, engine=lambda scan: answer("glioma", np.zeros(scan.pixels.shape))
    )
    assert result.features is None and result.notes == (EMPTY_MASK,)
    assert result.to_dict()["features"] is None


def test_threshold_is_the_engines():
    likely = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    engine = lambda scan: SimpleNamespace(
        probabilities=[1, 0, 0, 0], mask_probability=likely, threshold=0.75
    )
    assert analyze(picture(0), engine=engine).mask.mean() == pytest.approx(0.25, abs=0.001)


def test_anisotropic_spacing():
    result = analyze(picture(0), spacing=(2.0, 0.5), engine=bright)
    assert (result.features.height, result.features.width) == pytest.approx((8 * 0.2, 12 * 0.05))
    assert result.features.surface == pytest.approx(8 * 12 * 0.2 * 0.05)


@pytest.mark.parametrize(
    "values", [picture(3), picture(3)[..., None], np.repeat(picture(3)[..., None], 3, 2)]
)
def test_arrays(values):
    assert analyze(values, engine=bright).mask.sum() == 96


def test_thesis_dictionary_has_the_thesis_keys_and_a_png():
    told = analyze(picture(0), spacing=1, engine=bright).to_dict()
    assert list(told) == ["predicted_class", "features", "Image_combine"]
    assert list(told["features"]) == [
        "Surface (cm²)",
        "Perimeter (cm)",
        "Width (cm)",
        "Height (cm)",
        "Circularity",
    ]
    drawn = cv2.imdecode(np.frombuffer(told["Image_combine"], np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]
    assert np.array_equal(drawn, analyze(picture(0), engine=bright).overlay())


def test_thesis_spacing_is_measured_at_256():
    mask = np.zeros((512, 512), bool)
    mask[100:140, 200:260] = True
    values = np.where(mask, 255, 60).astype(np.uint8)
    result = analyze(values, spacing="thesis", engine=bright)
    told = result.to_dict()["features"]
    assert told["Width (cm)"] == pytest.approx(30 * 0.02646) and told[
        "Surface (cm²)"
    ] == pytest.approx(600 * 0.02646**2)
    assert result.spacing_source == "thesis" and "96 dpi" in result.notes[0]
    assert result.mask.sum() == 2400  # the mask itself stays in the scan's own size


def test_without_spacing_no_centimetre_is_given():
    result = analyze(picture(0), engine=bright)
    assert result.spacing is None and "pixels" in result.notes[0]
    assert result.to_dict()["features"]["Surface (px²)"] == 96.0
    assert "cm" not in json.dumps(result.to_dict(full=True)["features"])


@pytest.mark.parametrize("bad", [0, -1, (1, -2), float("nan"), "wide", (1, 2, 3)])
def test_a_wrong_spacing_is_said_once_even_for_a_batch(bad):
    with raises(ErrorCode.SPACING_INVALID, "spacing"):
        analyze(picture(0), spacing=bad, engine=bright)
    with raises(ErrorCode.SPACING_INVALID, "spacing"):
        analyze([picture(0)], spacing=bad, engine=bright)


@pytest.mark.parametrize(
    "odds, mask",
    [
        ([0.5, 0.5], np.zeros((64, 64))),
        ([0.25] * 4, np.zeros((32, 32))),
        ([np.nan] * 4, np.zeros((64, 64))),
        ([1, 1, 1, 1], np.zeros((64, 64))),
        ([-1, 1, 1, 0], np.zeros((64, 64))),
        ([0.25] * 4, np.full((64, 64), np.nan)),
    ],
)
def test_an_engine_that_answers_nonsense_is_refused(odds, mask):
    with raises(ErrorCode.OUTPUT_INVALID, "engine"):
        analyze(
            picture(0),
            engine=lambda scan: SimpleNamespace(probabilities=odds, mask_probability=mask),
        )


# ---------------------------------------------------------------- what is written


def test_same_input_same_bytes(tmp_path):
    for folder in ("first", "second"):
        analyze(
            samples(), engine=oracle, progress=False, batch_size=2 if folder == "first" else 5
        ).save(tmp_path / folder)
    first, second = (sorted((tmp_path / folder).iterdir()) for folder in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second] and len(
        first
    ) == 3 * len(samples()) + 1
    for one, other in zip(first, second):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_json_says_what_it_is_for_and_no_folder(tmp_path):
    path = write(tmp_path / "Smith John 1960" / "scan.png", picture(0))
    result = analyze(path, engine=bright).save(tmp_path / "out")
    text = result.files[-1].read_text(encoding="utf-8")
    assert json.loads(text)["intended_use"] == INTENDED_USE
    assert json.loads(text)["input"]["sha256"] == read_in_process(path).sha256
    assert "Smith" not in text and "Smith" not in result._repr_html_()
    missing = analyze([tmp_path / "Smith John 1960" / "gone.png"], engine=bright, progress=False)
    missing.save(tmp_path / "refused")
    assert "Smith" not in (tmp_path / "refused" / "gone.json").read_text(encoding="utf-8")


def test_mask_png_is_0_and_255_in_the_scans_own_size(tmp_path):
    values = picture(0, 100)[:, :90]
    result = analyze(values, engine=bright).save(tmp_path)
    mask = cv2.imread(str(tmp_path / f"{result.files[-1].stem}_mask.png"), cv2.IMREAD_UNCHANGED)
    assert (
        mask.shape == (100, 90)
        and set(np.unique(mask)) == {0, 255}
        and np.array_equal(mask > 0, values == 255)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nifti_mask_lies_where_the_slice_lay(tmp_path, axis):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(1, 1000, (40, 44, 48)).astype(np.int16)
    affine = np.array([[-1.5, 0, 0.2, 30], [0, 0.3, 2.0, -20], [0, -1.2, 0.4, 12], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "head.nii.gz")
    result = analyze(tmp_path / "head.nii.gz", slice=17, axis=axis, engine=bright).save(
        tmp_path / "out"
    )
    saved = nibabel.load(next(path for path in result.files if path.name.endswith(".nii.gz")))
    mask = np.asarray(saved.dataobj)[..., 0]
    assert mask.sum() > 50 and np.array_equal(mask > 0, result.mask)
    rows, columns = np.nonzero(mask)
    world = saved.affine @ np.stack([rows, columns, 0 * rows, 0 * rows + 1])
    voxels = np.linalg.solve(affine, world)[:3]
    assert (
        np.abs(voxels - np.rint(voxels)).max() < 1e-3
    )  # the mask's voxels fall on the volume's voxels
    values = volume[tuple(np.rint(voxels).astype(int))]
    assert (
        np.corrcoef(values, result.scan.pixels[rows, columns])[0, 1] > 0.999
    )  # and on the ones that were seen


def test_a_plain_picture_has_no_nifti(tmp_path):
    assert not [
        path
        for path in analyze(picture(0), engine=bright).save(tmp_path).files
        if path.suffix == ".gz"
    ]


def test_names_never_collide(tmp_path):
    for number, place in enumerate(
        ("a/1.png", "b/1.png", "c/1.PNG", "d/1-2.png", "e/É.png", "f/é.png")
    ):
        write(tmp_path / "in" / place, picture(number))
    for turn in range(2):  # the second run writes the same files again
        analyze(tmp_path / "in", engine=bright, progress=False).save(tmp_path / "out")
        told = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in (tmp_path / "out").glob("*.json")
        ]
        assert len(told) == 6 and len({one["input"]["sha256"] for one in told}) == 6
    names = {path.name.lower() for path in (tmp_path / "out").iterdir()}
    assert len(names) == 6 * 3 + 1


def test_another_scans_files_are_never_overwritten(tmp_path):
    first = analyze(write(tmp_path / "a" / "1.png", picture(0)), engine=bright).save(
        tmp_path / "out"
    )
    before = first.files[-1].read_bytes()
    second = analyze(write(tmp_path / "b" / "1.png", picture(1)), engine=bright).save(
        tmp_path / "out"
    )
    assert second.files[-1].name == "1-2.json" and first.files[-1].read_bytes() == before


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("I am in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with raises(ErrorCode.WRITE_FAILED, "file"):
            analyze(picture(0), engine=bright).save(place)
        with raises(ErrorCode.WRITE_FAILED, "file"):
            analyze([picture(0)] * 20, engine=bright, progress=False).save(place)
        with raises(ErrorCode.WRITE_FAILED, "file"):
            analyze([picture(0)], engine=bright, progress=False).to_csv(place / "t.csv")
    assert (tmp_path / "file").read_text() == "I am in the way"


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def full_disk(self, data):
        self.open("wb").write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with raises(ErrorCode.WRITE_FAILED, "_overlay.png"):
        analyze(picture(0), engine=bright).save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_report_is_one_page_and_escapes_names(tmp_path):
    good = analyze(samples()[0], engine=oracle)
    odd = Analysis("<img src=x onerror=alert(1)>.png", status="refused", error="<b>why</b>")
    text = write_result_page([good, odd], tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 2 and INTENDED_USE in text
    assert "<img src=x" not in text and "<b>why" not in text
    assert text.count("<img") == text.count("data:image/png;base64,") == text.count('alt="') == 3


# ---------------------------------------------------------------- many scans


def mixed(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    return [
        picture(0),
        tmp_path / "text.png",
        picture(1),
        tmp_path / "gone.png",
        np.full((64, 64), np.nan),
        tmp_path / "empty.png",
        picture(2),
    ]


def test_bad_scans_are_refused_and_the_rest_arrive(tmp_path):
    results = list(analyze(mixed(tmp_path), engine=bright, progress=False))
    assert [result.status for result in results] == [
        "ok",
        "refused",
        "ok",
        "refused",
        "refused",
        "refused",
        "ok",
    ]
    assert [result.source for result in results[1:4:2]] == ["text.png", "gone.png"]
    for result in results:
        assert (
            (result.error is None) == (result.status == "ok")
            and repr(result)
            and result._repr_html_()
        )
        if result.status == "refused":
            assert (
                result.predicted_class is None
                and result.confidence is None
                and len(result.error) > 20
            )
            assert json.loads(json.dumps(result.to_dict(full=True)))["error"] == result.error
            with pytest.raises(BrainTumorError):
                result.overlay()


def test_one_bad_scan_alone_raises(tmp_path):
    for bad in mixed(tmp_path)[1::2]:
        with pytest.raises(BrainTumorError):
            analyze(bad, engine=bright)


def test_an_engines_refusal_costs_one_scan_and_its_bug_stops_the_batch():
    class Engine:
        def __init__(self, problem):
            self.problem = problem

        def __call__(self, scan):
            if scan.pixels[4, 4] > 0.9:
                raise self.problem
            return bright(scan)

        def predict_many(self, scans):
            return [self(scan) for scan in scans]

    many = [picture(number) for number in (1, 2, 0, 3, 4)]
    results = list(analyze(many, engine=Engine(BrainTumorError("array: no head")), progress=False))
    assert [result.status for result in results] == ["ok", "ok", "refused", "ok", "ok"]
    with pytest.raises(ZeroDivisionError):
        list(analyze(many, engine=Engine(ZeroDivisionError()), progress=False))


def test_predict_many_is_used_and_an_answer_too_few_does_no_harm():
    sizes = []

    class Engine:
        def __call__(self, scan):
            return bright(scan)

        def predict_many(self, scans):
            sizes.append(len(scans))
            return [bright(scan) for scan in scans][: 3 if len(scans) == 4 else None]

    results = list(
        analyze([picture(n) for n in range(30)], engine=Engine(), progress=False, batch_size=4)
    )
    assert max(sizes) == 4 and len(results) == 30
    assert all(np.array_equal(result.mask, picture(n) == 255) for n, result in enumerate(results))


def test_order_is_kept_however_long_each_takes():
    gate = threading.Event()

    def first(number):
        if number == 0:
            gate.wait(5)  # the first is the last to be read
        elif number == 1:
            gate.set()
        return number

    done = list(pipelined(range(200), first, lambda group: group, lambda a, b: (a, b), size=8))
    assert done == [(n, n) for n in range(200)]


def test_a_generator_is_read_only_a_little_ahead():
    taken = []

    def many():
        for number in range(10_000):
            taken.append(number)
            yield picture(number)

    batch = analyze(many(), engine=bright, progress=False, batch_size=8)
    assert taken == []  # nothing is read before anybody asks
    for count, result in enumerate(batch, 1):
        assert len(taken) <= count + 4 * 8
        assert np.array_equal(result.mask, picture(count - 1) == 255)
        if count == 100:
            break
    assert len(taken) <= 132


def test_a_generator_goes_on_where_it_was_left(tmp_path):
    batch = analyze((picture(number) for number in range(40)), engine=bright, progress=False)
    begun = [result.mask for result, _ in zip(batch, range(10))]
    table = batch.to_frame()
    assert len(begun) == 10 and len(table) >= 39  # zip takes one more than it gives
    rows = [(picture(number) == 255).sum() for number in range(40)]
    assert list(table.mask_pixels) == rows[: len(table)]


def test_a_list_can_be_gone_through_again():
    batch = analyze([picture(number) for number in range(5)], engine=bright, progress=False)
    assert len(batch) == 5 and bool(batch)
    assert (
        [result.mask.sum() for result in batch]
        == [result.mask.sum() for result in batch]
        == [96] * 5
    )
    for _ in batch:
        break
    assert len(batch.to_frame()) == 5


def test_memory_stays_flat():
    alive, most = weakref.WeakSet(), 0

    def engine(scan):
        alive.add(scan)
        return bright(scan)

    for count, result in enumerate(
        analyze((picture(n) for n in range(300)), engine=engine, progress=False, batch_size=4)
    ):
        if count % 50 == 49:
            gc.collect()
            most = max(most, len(alive))
    assert count == 299 and most <= 4 * 4 + 1


def test_leaving_the_loop_stops_the_threads():
    before = threading.active_count()
    for _ in analyze([picture(n) for n in range(50)], engine=bright, progress=False):
        break
    gc.collect()
    assert threading.active_count() <= before


def test_table_and_csv(tmp_path):
    import pandas

    for number, place in enumerate(("a/1.png", "b/1.png")):
        write(tmp_path / place, picture(number))
    (tmp_path / "b" / "2.png").write_text("no picture")
    batch = analyze(tmp_path, engine=bright, progress=False, spacing=0.5)
    table = batch.to_frame()
    assert tuple(table.columns) == RESULT_COLUMNS and list(table.source) == [
        "a/1.png",
        "b/1.png",
        "b/2.png",
    ]
    assert list(table.status) == ["ok", "ok", "refused"] and list(table.unit[:2]) == ["cm", "cm"]
    assert (
        table.surface[0] == pytest.approx(96 * 0.05**2)
        and table[[f"p_{name}" for name in CLASSES]][:2].sum(axis=1).eq(1).all()
    )
    back = pandas.read_csv(batch.to_csv(tmp_path / "out" / "t.csv"))
    pandas.testing.assert_frame_equal(back, table.fillna(np.nan).astype(back.dtypes))


def test_empty_folder_and_strange_engines(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BrainTumorError):
        analyze(tmp_path / "nothing", engine=bright)
    with raises(ErrorCode.ARGUMENT_INVALID, "engine"):
        analyze(picture(0), engine=3.5)
    with raises(ErrorCode.ARGUMENT_INVALID, "batch_size"):
        analyze([picture(0)], engine=bright, batch_size=0)


def test_an_empty_list_gives_an_empty_table():
    assert len(analyze([], engine=bright, progress=False).to_frame()) == 0


HEAVY = (
    "tensorflow",
    "keras",
    "matplotlib",
    "pandas",
    "skimage",
    "scipy",
    "nibabel",
    "PIL",
    "tqdm",
)
LIGHT = """
import sys
import numpy as np
from types import SimpleNamespace
from brain_tumor import analyze

pixels = np.full((64, 64), 60, np.uint8)
pixels[10:20, 10:30] = 255
engine = lambda scan: SimpleNamespace(
    probabilities=[1, 0, 0, 0], mask_probability=(scan.pixels > 0.8).astype("f4"), threshold=0.5
)
result = analyze(pixels, spacing=1, engine=engine)
result.overlay(), result.to_dict(), result.to_dict(full=True), result._repr_html_()
print(*(name for name in HEAVY if name in sys.modules))
"""
LOADED = """
import sys

def loaded():
    return {name for name in sys.modules if name.split(".")[0] == "brain_tumor"}

from brain_tumor import analyze
print(*sorted(loaded()))
from brain_tumor import samples
result = analyze(samples()[0])
print(*sorted(loaded()))
print(*(name for name in (*HEAVY, "jinja2", "markupsafe") if name in sys.modules))
"""


def output_lines(code):
    """What a fresh process prints, as words per line."""
    run = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split() for line in run.stdout.splitlines()]


def test_analysing_loads_nothing_heavy():
    assert output_lines(LIGHT) == [[]]


def test_analyze_loads_only_the_packages_it_needs():
    """io, imaging, metrics and inference, after the import and after a scan; no heavy library."""
    imported, analysed, heavy = output_lines(LOADED)
    assert {"brain_tumor.inference.analyze", "brain_tumor.io.read"} <= set(imported)
    assert {"brain_tumor.inference.engines"} <= set(analysed)
    for names in (imported, analysed):
        packages = {name.split(".")[1] for name in names if "." in name}
        assert packages == {"io", "imaging", "metrics", "inference"}, names
    assert heavy == []


# ---------------------------------------------------------------- the network that ships


@pytest.fixture(scope="module")
def shipped():
    engines = pytest.importorskip("brain_tumor.inference.engines", exc_type=ImportError)
    try:
        return engines.load_engine("compact")
    except BrainTumorError as missing:
        pytest.skip(f"no model yet: {missing}")


def test_shipped_model_one_by_one_and_together_agree(shipped):
    together = list(analyze(samples(), engine=shipped, progress=False))
    for path, many in zip(samples(), together):
        one = analyze(path, engine=shipped)
        assert isinstance(one.scan, Scan) and one.mask.shape == one.scan.pixels.shape
        assert one.predicted_class == many.predicted_class
        assert (
            max(abs(one.probabilities[name] - many.probabilities[name]) for name in CLASSES) < 1e-3
        )
        assert (one.mask != many.mask).mean() < 1e-3


def test_shipped_model_names_itself(shipped):
    model = analyze(samples()[0], engine=shipped).to_dict(full=True)["model"]
    assert model["name"] == "compact" and model["version"] and len(model["sha256"]) == 64

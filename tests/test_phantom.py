"""Phantoms against geometry and anatomy, and the bundled samples against their drawing."""

import json
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO

import cv2
import numpy as np
import pytest
from errors import raises
from scipy.ndimage import binary_erosion, distance_transform_edt

from brain_tumor.imaging.anatomy import PLANES
from brain_tumor.imaging.lesions import PATTERNS
from brain_tumor.imaging.phantoms import phantom, phantoms, write_phantoms
from brain_tumor.imaging.samples import SAMPLES, sample_truth, samples, write_samples
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

drawing = pytest.mark.skipif(find_spec("nilearn") is None, reason="phantoms need nilearn")
PAIRS = [(c, p) for c in CLASSES for p in PLANES]


def from_midline(p):
    """Mean distance of the tumour from the middle of the brain, in mm (columns run left-right)."""
    inside = p.brain.any(0).nonzero()[0]
    return (p.mask.any(0).nonzero()[0].mean() - (inside[0] + inside[-1]) / 2) * p.spacing[1]


@drawing
@pytest.mark.parametrize("tumor,plane", PAIRS)
def test_shape_types_and_reproducibility(tumor, plane):
    p = phantom(tumor, plane, seed=41, size=200)
    again, other = (
        phantom(tumor, plane, seed=41, size=200),
        phantom(tumor, plane, seed=42, size=200),
    )
    assert p.pixels.shape == p.mask.shape == p.brain.shape == (200, 200)
    assert p.pixels.dtype == np.uint8 and p.mask.dtype == bool
    assert p.pixels.tobytes() == again.pixels.tobytes() and p.mask.tobytes() == again.mask.tobytes()
    assert p.pixels.tobytes() != other.pixels.tobytes()
    assert p.mask.any() == (tumor != "no_tumor")
    assert p.pattern in PATTERNS[tumor]


@drawing
def test_same_bytes_in_a_fresh_process():
    code = (
        "from brain_tumor.imaging.phantoms import phantom; import hashlib; "
        "drawn = phantom('glioma', 'coronal', 3, 128).pixels.tobytes(); "
        "print(hashlib.sha256(drawn).hexdigest())"
    )
    out = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.strip()
        .splitlines()[-1]
    )
    assert out == sha256(phantom("glioma", "coronal", 3, 128).pixels.tobytes()).hexdigest()


@drawing
def test_every_tumour_is_in_the_picture_and_in_the_head():
    for p in phantoms(24, seed=1, size=128):
        if p.tumor == "no_tumor":
            assert not p.mask.any()
            continue
        assert p.area > 25, p
        assert not (p.mask[[0, -1]].any() or p.mask[:, [0, -1]].any()), p
        assert p.pixels[p.mask].mean() > 15, p


@drawing
@pytest.mark.parametrize("seed", range(4))
def test_a_head_is_as_wide_as_heads_are_at_every_size(seed):
    widths = []
    for size, fov in ((256, None), (512, None), (300, 300)):
        p = phantom("meningioma", "axial", seed, size, pattern="convexity", fov=fov)
        bright = cv2.GaussianBlur(p.pixels, (0, 0), 1.5 / p.spacing[0]) > 20
        columns = (bright.sum(0) * p.spacing[0] > 15).nonzero()[0]
        widths.append((columns[-1] - columns[0] + 1) * p.spacing[1])
    assert 120 < widths[0] < 185
    assert np.ptp(widths) < 5


@drawing
def test_spacing_is_field_of_view_over_size():
    p = phantom("no_tumor", "axial", 0, 512, fov=250)
    assert p.spacing == (250 / 512, 250 / 512)
    assert all(
        220 / 512 <= phantom("no_tumor", "sagittal", s, 512).spacing[0] <= 262 / 512
        for s in range(2)
    )


@drawing
@pytest.mark.parametrize("plane", PLANES)
def test_area_is_the_same_in_mm_at_every_size(plane):
    areas = [phantom("glioma", plane, 11, size).area for size in (192, 256, 512)]
    assert np.ptp(areas) / areas[1] < 0.03


@drawing
def test_area_follows_the_diameter():
    for plane in ("axial", "sagittal"):
        for diameter in (16, 32):
            ratios = [
                phantom("pituitary", plane, s, 256, pattern="round", diameter=diameter).area
                / (np.pi * diameter**2 / 4)
                for s in range(4)
            ]
            assert 0.7 < np.mean(ratios) < 1.2, (plane, diameter, ratios)


@drawing
def test_one_seed_is_one_person():
    a, b = phantom("glioma", "coronal", 9, 256), phantom("glioma", "coronal", 9, 256, offset=30)
    assert a.spacing == b.spacing
    assert np.allclose((b.affine - a.affine)[:3, 3], (0, 30, 0), atol=1e-6)
    assert a.mask.any() and b.mask.sum() < a.mask.sum()


@drawing
@pytest.mark.parametrize("plane", PLANES)
def test_affine_puts_right_on_the_left_and_front_where_it_belongs(plane):
    a = phantom("no_tumor", plane, 0, 64, fov=256).affine
    down, across = a[:3, 0] / 4, a[:3, 1] / 4
    expected = {
        "axial": ((0, -1, 0), (-1, 0, 0)),
        "coronal": ((0, 0, -1), (-1, 0, 0)),
        "sagittal": ((0, 0, -1), (0, -1, 0)),
    }[plane]
    assert np.allclose(down, expected[0]) and np.allclose(across, expected[1])
    assert np.linalg.norm(a[:3, 2]) == pytest.approx(5)


@drawing
@pytest.mark.parametrize("plane", PLANES)
def test_meningiomas_sit_on_the_dura(plane):
    for seed in range(4):
        p = phantom("meningioma", plane, seed, 256, pattern="convexity", diameter=30)
        to_dura = distance_transform_edt(p.brain) * p.spacing[0]
        assert to_dura[p.mask].min() < 3, seed
        assert not (
            p.mask & ~cv2.dilate(p.brain.astype(np.uint8), np.ones((3, 3))).astype(bool)
        ).any()


@drawing
def test_falx_meningiomas_lie_on_one_side_of_the_midline():
    for seed in range(5):
        p = phantom("meningioma", "coronal", seed, 256, pattern="falx", diameter=26)
        assert 3 < abs(from_midline(p)) < 25, seed


@drawing
def test_gliomas_keep_off_the_dura():
    for seed in range(5):
        p = phantom("glioma", "axial", seed, 256)
        assert (distance_transform_edt(p.brain) * p.spacing[0])[p.mask].min() >= 0.5


@drawing
@pytest.mark.parametrize("plane", PLANES)
def test_pituitary_tumours_are_in_the_sella(plane):
    for seed in range(4):
        p = phantom("pituitary", plane, seed, 256, diameter=16, pattern="round")
        rows, columns = p.mask.nonzero()
        y, x = rows.mean() * p.spacing[0], columns.mean() * p.spacing[1]
        inside = p.brain.nonzero()
        top, bottom, left, right = (
            v * p.spacing[0]
            for v in (inside[0].min(), inside[0].max(), inside[1].min(), inside[1].max())
        )
        if plane != "sagittal":
            assert abs(x - (left + right) / 2) < 9, seed  # midline
        if plane == "coronal":
            assert 0.6 < (y - top) / (bottom - top) < 1.1, seed  # low in the skull
        if plane == "sagittal":  # front half, low
            assert 0.25 < (x - left) / (right - left) < 0.55, seed
            assert 0.5 < (y - top) / (bottom - top) < 0.9, seed


@drawing
def test_enhancing_tumours_are_brighter_than_the_brain_around_them():
    for tumor, plane, pattern in (
        ("glioma", "axial", "ring"),
        ("glioma", "coronal", "ring"),
        ("meningioma", "sagittal", "convexity"),
        ("pituitary", "coronal", "round"),
    ):
        for seed in range(3):
            p = phantom(tumor, plane, seed, 256, pattern=pattern, diameter=36)
            far = distance_transform_edt(~p.mask) * p.spacing[0]
            around = p.pixels[p.brain & (far > 4) & (far < 20)]
            rim = p.mask & ~binary_erosion(p.mask, iterations=6)
            assert np.percentile(p.pixels[rim], 70) > 1.2 * np.median(around), (tumor, plane, seed)


@drawing
def test_a_ring_has_a_dark_core():
    for seed in range(4):
        p = phantom("glioma", "axial", seed, 256, pattern="ring", diameter=46)
        depth = distance_transform_edt(p.mask)
        core, rim = (
            p.pixels[depth > 0.7 * depth.max()],
            p.pixels[p.mask & (depth < 0.35 * depth.max())],
        )
        assert np.median(core) < 0.75 * np.percentile(rim, 75), seed


@drawing
def test_white_matter_grey_matter_water():
    """T1-weighted: white matter is the brightest tissue, ventricles the darkest in the brain."""
    p = phantom("no_tumor", "axial", 2, 256)
    deep = distance_transform_edt(p.brain) * p.spacing[0] > 15
    v = p.pixels[deep]
    assert np.percentile(v, 75) > 1.1 * np.percentile(v, 3)
    background = p.pixels[:20, :20]
    assert np.median(background) < 0.25 * np.median(v)


@drawing
@pytest.mark.parametrize(
    "wrong",
    [
        dict(tumor="Glioma"),
        dict(tumor="metastasis"),
        dict(tumor=None),
        dict(plane="oblique"),
        dict(size=3),
        dict(size=256.5),
        dict(size=True),
        dict(seed=-1),
        dict(seed="1"),
        dict(pattern="snowman"),
        dict(diameter=-5),
        dict(diameter=float("nan")),
        dict(fov=0),
        dict(thickness=-1),
        dict(offset=float("inf")),
    ],
)
def test_wrong_words_and_numbers_raise(wrong):
    with raises(ErrorCode.ARGUMENT_INVALID, next(iter(wrong))):
        phantom(**wrong)


@drawing
def test_missing_nilearn_names_the_remedy(monkeypatch):
    from brain_tumor.imaging.anatomy import load_template

    load_template.cache_clear()
    for name in ("nilearn", "nilearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with raises(ErrorCode.DEPENDENCY_MISSING, "nilearn", 'pip install "brain_tumor[workbook]"'):
        load_template()


@drawing
def test_shows_itself_with_words():
    p = phantom("glioma", "axial", 0, 96)
    assert 'alt="Phantom, axial head slice, glioma' in p._repr_html_()
    assert (p.outlined() != p.pixels).any() and p.outlined().shape == p.pixels.shape


@drawing
def test_written_phantoms_can_be_trained_on(tmp_path):
    import pandas as pd

    table = pd.read_csv(write_phantoms(tmp_path, 12, seed=5, size=64))
    assert list(table)[:9] == [
        "image",
        "mask",
        "class",
        "group",
        "plane",
        "width",
        "height",
        "spacing_mm",
        "role",
    ]
    assert len(table) == 12 and table.group.is_unique
    assert table.seed.min() >= 10_000
    assert (table.groupby("role")["class"].nunique() == 4).all() and set(table.role) == {
        "train",
        "validation",
        "test",
    }
    for row, p in zip(table.to_dict("records"), phantoms(12, seed=5, size=64)):
        assert (cv2.imread(str(tmp_path / row["image"]), cv2.IMREAD_UNCHANGED) == p.pixels).all()
        assert ((cv2.imread(str(tmp_path / row["mask"]), cv2.IMREAD_GRAYSCALE) > 0) == p.mask).all()
        assert row["class"] == p.tumor and row["spacing_mm"] == pytest.approx(
            p.spacing[0], abs=1e-6
        )
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.name.startswith(".")]
    with raises(ErrorCode.ARGUMENT_INVALID, "12"):
        write_phantoms(tmp_path / "few", 11)


@drawing
def test_sets_never_use_the_samples_seeds():
    from brain_tumor.imaging.samples import _NIFTI, _SAMPLES

    assert all(s[3] < 10_000 for s in (*_SAMPLES, _NIFTI))
    assert min(p.seed for p in phantoms(4, size=64)) >= 10_000


# ---- the samples: none of these needs nilearn but the last ----

ENTRIES = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))


def test_samples_are_there_and_small():
    assert len(samples()) == 8 and len(samples("all")) == 10
    assert {e["class"] for e in ENTRIES} == set(CLASSES) and {e["plane"] for e in ENTRIES} == set(
        PLANES
    )
    assert sum(f.stat().st_size for f in SAMPLES.rglob("*") if f.is_file()) < 1_000_000
    assert "Louis Collins" in (SAMPLES / "NOTICE.txt").read_text(encoding="utf-8")
    with raises(ErrorCode.ARGUMENT_INVALID, "jpg", "png"):
        samples("jpg")
    with raises(ErrorCode.SELECTION_INVALID, "nothing", "glioma-axial"):
        sample_truth("nothing")


@pytest.mark.parametrize("entry", ENTRIES, ids=[e["name"] for e in ENTRIES])
def test_samples_are_what_samples_json_says(entry):
    for file, digest in entry["sha256"].items():
        assert sha256((SAMPLES / file).read_bytes()).hexdigest() == digest
    truth = sample_truth(entry["file"])
    assert truth.mask.shape == (entry["size"],) * 2
    assert truth.mask.sum() * entry["spacing"][0] * entry["spacing"][1] == pytest.approx(
        entry["area_mm2"], rel=1e-3, abs=0.1
    )
    assert truth.mask.any() == (entry["class"] != "no_tumor")


def test_samples_need_no_nilearn():
    code = (
        "import sys; sys.modules['nilearn'] = None\n"
        "from brain_tumor.imaging.samples import samples, sample_truth\n"
        "print(len(samples()), sample_truth(samples()[0]).tumor,"
        " 'matplotlib' in sys.modules, 'tensorflow' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out == ["8", "glioma", "False", "False"]


def test_the_dicom_sample_is_the_png_with_millimetres():
    pydicom = pytest.importorskip("pydicom")
    d = pydicom.dcmread(samples("dcm")[0])
    entry = next(e for e in ENTRIES if e["file"].endswith(".dcm"))
    png = cv2.imread(str(SAMPLES / "meningioma-coronal.png"), cv2.IMREAD_UNCHANGED)
    assert (d.pixel_array == png.astype(int) * 16).all()
    assert [float(v) for v in d.PixelSpacing] == pytest.approx(entry["spacing"], abs=1e-5)
    assert (
        str(d.PatientName) == "PHANTOM"
        and d.PatientBirthDate == ""
        and d.PatientSex == ""
        and d.StudyDate == ""
    )
    axes = np.array(d.ImageOrientationPatient, float)
    assert np.allclose(axes, (1, 0, 0, 0, 0, -1))  # coronal: to the patient's left, downwards
    pydicom.dcmwrite(BytesIO(), d, enforce_file_format=True)


def test_the_nifti_sample_holds_its_geometry():
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(samples("nii.gz")[0])
    entry = next(e for e in ENTRIES if e["file"].endswith(".nii.gz"))
    assert image.shape == (entry["size"], entry["size"], 5) and entry["slice"] == 2
    assert np.allclose(image.header.get_zooms(), (*entry["spacing"], 5), atol=1e-4)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    middle, mask = np.asarray(image.dataobj)[:, :, 2].T, sample_truth(entry["file"]).mask
    assert np.median(middle[mask]) > 1.3 * np.median(
        middle[middle > 30]
    )  # the bright tumour is where the truth says


@drawing
def test_the_samples_are_drawn_by_this_module(tmp_path):
    """The committed samples come out again; other processors may round by one grey level."""
    drawn = json.loads(write_samples(tmp_path).read_text(encoding="utf-8"))
    assert [{k: v for k, v in e.items() if k not in ("sha256", "area_mm2")} for e in drawn] == [
        {k: v for k, v in e.items() if k not in ("sha256", "area_mm2")} for e in ENTRIES
    ]
    for path in samples():
        old, new = (
            cv2.imread(str(f), cv2.IMREAD_UNCHANGED).astype(int)
            for f in (path, tmp_path / path.name)
        )
        assert np.abs(old - new).max() <= 1 and (old != new).mean() < 0.001, path.name
        old, new = (
            cv2.imread(str(f / "truth" / path.name), cv2.IMREAD_GRAYSCALE) > 0
            for f in (SAMPLES, tmp_path)
        )
        assert (old != new).sum() <= 2, path.name
    assert (tmp_path / "NOTICE.txt").read_bytes() == (SAMPLES / "NOTICE.txt").read_bytes()

"""Reading, checking and fetching sets: every arrangement, every refusal, with small generated folders only."""
import builtins
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import brain_tumor.data as data
from brain_tumor.cli import main
from brain_tumor.data import (COLUMNS, EDITIONS, RECORD, balance, changed, class_of, counts, explain_counts, find_sets, fingerprint, get, grey,
                              index, intensities, layout, look, manifests, offer, read_folds, read_manifest, read_mat, sheet, sizes, write_mat)
from brain_tumor.scan import CLASSES, BrainTumorError

SMALL = np.random.default_rng(0).integers(0, 255, (48, 40)).astype(np.uint8)


def picture(path, size=(40, 48), value=None):
    """A picture of (width, height); its pixels differ from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.as_posix())) if value is None else value
    pixels = np.random.default_rng(seed).integers(0, 255, size[::-1]).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(folder, names=("glioma", "meningioma", "notumor", "pituitary"), sides=("Training", "Testing"), each=3):
    for side in sides:
        for name in names:
            for number in range(each):
                picture(folder / side / name / f"{number}.png")
    return folder


def mat_set(folder, patients=("A1", "A1", "B2", "B2", "Ü3", "Ü3")):
    for number, patient in enumerate(patients, 1):
        write_mat(folder / f"{number}.mat", SMALL.astype(int) * 10 + number, SMALL > 200, ("glioma", "meningioma", "pituitary")[number % 3], patient)
    return folder


# ---- arrangements

@pytest.mark.parametrize("name, meant", [
    ("glioma", "glioma"), ("Glioma_Tumor", "glioma"), ("meningioma tumour", "meningioma"), ("no_tumor", "no_tumor"), ("NoTumor", "no_tumor"),
    ("no", "no_tumor"), ("pituitary_tumor", "pituitary"), ("yes", None), ("tumor", None), ("Training", None), ("", None)])  # fmt: skip
def test_the_class_is_read_from_the_folders_name(name, meant):
    assert class_of(name) == meant


def test_class_folders_under_training_and_testing(tmp_path):
    table, left_out = index(class_folders(tmp_path / "mri"))
    assert list(table.columns) == list(COLUMNS) and len(table) == 24 and left_out.empty
    assert table.groupby(["split", "class"]).size().eq(3).all() and set(table["class"]) == set(CLASSES)
    assert set(table["source"]) == {"mri"} and table["width"].eq(40).all() and table["height"].eq(48).all()
    assert table["image"][0] == "Testing/glioma/0.png" and table[["patient", "group", "fold", "mask", "spacing_mm"]].isna().all().all()


def test_class_folders_directly_and_nested_one_level(tmp_path):
    class_folders(tmp_path / "archive" / "inner", sides=("",))
    (tmp_path / "archive" / "__MACOSX").mkdir()
    nested, _ = index(tmp_path / "archive")
    direct, _ = index(tmp_path / "archive" / "inner")
    pd.testing.assert_frame_equal(nested, direct)
    assert nested["split"].isna().all() and set(nested["source"]) == {"inner"}


def test_files_come_in_the_order_of_their_names_as_strings(tmp_path):
    for number in (1, 2, 10, 100):
        picture(tmp_path / "glioma" / f"{number}.png")
    assert index(tmp_path)[0]["image"].tolist() == [f"glioma/{n}.png" for n in (1, 10, 100, 2)]


def test_odd_names_and_all_picture_formats(tmp_path):
    names = ["脳 é.png", "a b'c.jpg", "ü#%.webp", "x.BMP", "y.tiff", "-z.gif"]
    for name in names:
        picture(tmp_path / "glioma" / name)
    table, left_out = index(tmp_path, thorough=True)
    assert sorted(table["image"]) == sorted(f"glioma/{name}" for name in names) and left_out.empty
    assert all(grey(path).shape == (48, 40) for path in table["path"])


def test_images_and_masks(tmp_path):
    for stem in ("1", "2", "3"):
        picture(tmp_path / "images" / f"{stem}.png")
    for stem in ("1", "2_mask", "9"):
        picture(tmp_path / "masks" / f"{stem}.png")
    table, left_out = index(tmp_path)
    assert layout(tmp_path) == "masks" and table["class"].isna().all()
    assert [mask and mask.split("/")[-1] for mask in table["mask"].astype(object).where(table["mask"].notna(), None)] == ["1.png", "2_mask.png", None]
    assert left_out["path"].tolist() == [str(tmp_path / "masks" / "9.png")] and "without a picture" in left_out["reason"][0]


def test_a_manifest_brings_its_groups(tmp_path):
    rows = [{"image": f"p/{n}.png", "class": "glioma", "group": f"G{n // 2}", "fold": 1 + n // 2, "spacing_mm": 0.5, "role": "train"} for n in range(4)]
    for row in rows:
        picture(tmp_path / "set" / row["image"])
    pd.DataFrame(rows).to_csv(tmp_path / "set" / "manifest.csv", index=False)
    table, left_out = index(tmp_path / "set")
    assert table["group"].tolist() == ["G0", "G0", "G1", "G1"] and table["fold"].tolist() == [1, 1, 2, 2] and left_out.empty
    assert table["spacing_mm"].eq(0.5).all() and table["width"].eq(40).all() and table["mask"].isna().all()
    assert read_manifest(manifests(tmp_path)[0])["path"].tolist() == table["path"].tolist()


def test_a_manifest_that_is_wrong_about_a_size_leaves_the_picture_out(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    pd.DataFrame({"image": [f"{n}.png" for n in range(3)], "class": "glioma", "width": [40, 40, 99], "height": 48}).to_csv(tmp_path / "manifest.csv", index=False)
    table, left_out = index(tmp_path)
    assert len(table) == 2 and "40 x 48 pixels, but the manifest says 99 x 48" in left_out["reason"][0]


def test_a_folder_of_sets_is_one_table(tmp_path):
    class_folders(tmp_path / "one")
    for name in ("images/1.png", "images/2.png"):
        picture(tmp_path / "healthy" / name)
    pd.DataFrame({"image": ["images/1.png", "images/2.png"], "class": "no_tumor"}).to_csv(tmp_path / "healthy" / "manifest.csv", index=False)
    table, _ = index(tmp_path)
    assert table["source"].value_counts().to_dict() == {"one": 24, "healthy": 2}


# ---- figshare's files

def test_mat_files_bring_patient_fold_and_spacing(tmp_path):
    import h5py
    mat_set(tmp_path / "brainTumorDataPublic_1-766")
    with h5py.File(tmp_path / "cvind.mat", "w") as file:
        file["cvind"] = np.array([[1, 1, 2, 2, 5, 5, 3]], np.float64)
    table, left_out = index(tmp_path)
    assert left_out.empty and table["patient"].tolist() == table["group"].tolist() == ["A1", "A1", "B2", "B2", "Ü3", "Ü3"]
    assert table["fold"].tolist() == [1, 1, 2, 2, 5, 5] and table["class"].tolist() == ["meningioma", "pituitary", "glioma"] * 2
    assert table["spacing_mm"].eq(round(0.49 * 512 / 48, 6)).all() and table["mask"].tolist() == table["path"].tolist()


def test_mat_arrays_are_turned_the_right_way(tmp_path):
    import h5py
    write_mat(tmp_path / "1.mat", SMALL.astype(int) * 3, SMALL > 99, "glioma", "7")
    with h5py.File(tmp_path / "1.mat") as file:  # as MATLAB writes them: columns first
        assert file["cjdata/image"].shape == (40, 48) and file["cjdata/label"][0, 0] == 2 and file["cjdata/PID"].dtype == np.uint16
    found = read_mat(tmp_path / "1.mat")
    assert (found.image == SMALL.astype(int) * 3).all() and (found.mask == (SMALL > 99)).all() and (found.tumor, found.patient) == ("glioma", "7")
    seen = grey(tmp_path / "1.mat")
    assert seen.dtype == np.float32 and seen.max() == 1 and np.allclose(seen, SMALL / SMALL.max(), atol=1e-6)


def test_mat_files_are_counted_as_numbers(tmp_path):
    mat_set(tmp_path, [f"P{n}" for n in range(12)])
    assert index(tmp_path)[0]["image"].tolist() == [f"{n}.mat" for n in range(1, 13)]


def test_broken_mat_files_are_listed_and_a_broken_list_of_folds_is_refused(tmp_path):
    import h5py
    mat_set(tmp_path)
    (tmp_path / "7.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with h5py.File(tmp_path / "8.mat", "w") as file:
        file["other"] = 1
    with h5py.File(tmp_path / "9.mat", "w") as file:
        for name, values in (("label", [[4]]), ("PID", [[65]]), ("image", SMALL), ("tumorMask", SMALL)):
            file[f"cjdata/{name}"] = values
    with h5py.File(tmp_path / "10.mat", "w") as file:
        for name, values in (("label", [[1]]), ("PID", [[65]]), ("image", SMALL), ("tumorMask", SMALL[:9])):
            file[f"cjdata/{name}"] = values
    table, left_out = index(tmp_path)
    assert len(table) == 6 and [path.split("/")[-1] for path in left_out["path"]] == ["7.mat", "8.mat", "9.mat", "10.mat"]
    assert "one size" in left_out["reason"][3]
    (tmp_path / "cvind.mat").write_bytes(b"nothing")
    with pytest.raises(BrainTumorError, match="cvind.mat.*no list of folds"):
        index(tmp_path)
    with pytest.raises(BrainTumorError, match="no list of folds"):
        read_folds(tmp_path / "7.mat")


@pytest.mark.parametrize("module, action", [("h5py", lambda folder: read_mat(folder / "1.mat")),
                                            ("kagglehub", lambda folder: get("segmentation", folder / "new", confirm=True))])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, module, action):
    write_mat(tmp_path / "1.mat", SMALL, SMALL > 0, "glioma", "1")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BrainTumorError, match=rf"{module}.*brain_tumor\[workbook\]"):
        action(tmp_path)


# ---- broken and wrong input

def test_broken_pictures_are_listed_and_the_rest_goes_on(tmp_path):
    class_folders(tmp_path)
    place = tmp_path / "Training" / "glioma"
    (place / "a.jpg").write_bytes(b"no picture")
    (place / "b.png").write_bytes(b"")
    (place / "c.txt").write_text("notes")
    (place / ".DS_Store").write_bytes(b"x")
    (tmp_path / "Training" / "metastasis").mkdir()
    table, left_out = index(tmp_path)
    assert len(table) == 24
    reasons = {path.split("/")[-1]: reason for path, reason in zip(left_out["path"], left_out["reason"])}
    assert set(reasons) == {"a.jpg", "b.png", "c.txt", "metastasis"}
    assert "cannot be read" in reasons["a.jpg"] and "no picture by its name" in reasons["c.txt"] and "no class" in reasons["metastasis"]


def test_a_jpeg_that_stops_halfway_is_found_by_a_thorough_look(tmp_path):
    class_folders(tmp_path)
    whole = picture(tmp_path / "Training" / "glioma" / "half.jpg", size=(200, 200)).read_bytes()
    (tmp_path / "Training" / "glioma" / "half.jpg").write_bytes(whole[:len(whole) // 2])
    assert len(index(tmp_path)[1]) == 0
    assert index(tmp_path, thorough=True)[1]["path"].tolist() == [str(tmp_path / "Training" / "glioma" / "half.jpg")]


def test_a_broken_mask_leaves_the_picture_without_one(tmp_path):
    picture(tmp_path / "images" / "1.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "1.png").write_bytes(b"broken")
    table, left_out = index(tmp_path)
    assert len(table) == 1 and table["mask"].isna().all() and left_out["path"].tolist() == [str(tmp_path / "masks" / "1.png")]


def test_a_mask_of_another_size_is_refused(tmp_path):
    for stem in ("1", "2"):
        picture(tmp_path / "images" / f"{stem}.png")
    picture(tmp_path / "masks" / "1.png")
    picture(tmp_path / "masks" / "2.png", size=(48, 40))
    with pytest.raises(BrainTumorError, match="1 masks have another size.*2.png: a mask of 48 x 40 pixels for a picture of 40 x 48.*take these pairs out"):
        index(tmp_path)


def test_missing_files_of_a_manifest_are_named(tmp_path):
    picture(tmp_path / "0.png")
    pd.DataFrame({"image": ["0.png", "gone.png"], "mask": [None, "m.png"], "class": "glioma"}).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(BrainTumorError, match="2 of its 3 files are missing, among them gone.png, m.png.*remove their lines"):
        index(tmp_path)


@pytest.mark.parametrize("content, why", [(b"", "not a table"), (b"\xff\xfe\x00", "not a table"), (b"image,group\na.png,1\n", "no column class")])
def test_a_manifest_that_is_none(tmp_path, content, why):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(BrainTumorError, match=f"manifest.csv: {why}"):
        index(tmp_path)


@pytest.mark.parametrize("count, says", [(0, "the class pituitary has no readable pictures"), (1, "the class pituitary has 1 readable picture\\.")])
def test_a_class_with_one_picture_or_none_is_refused(tmp_path, count, says):
    class_folders(tmp_path, names=("glioma", "meningioma"), sides=("",))
    (tmp_path / "pituitary").mkdir()
    for number in range(count):
        picture(tmp_path / "pituitary" / f"{number}.png")
    with pytest.raises(BrainTumorError, match=f"{says}.*add some"):
        index(tmp_path)


def test_a_folder_without_classes_is_refused_and_says_what_it_found(tmp_path):
    picture(tmp_path / "cats" / "1.png")
    with pytest.raises(BrainTumorError, match="no set here or one folder down.*glioma, meningioma.*found is cats"):
        index(tmp_path)
    with pytest.raises(BrainTumorError, match="no such folder.*brain_tumor data get"):
        index(tmp_path / "gone")
    with pytest.raises(BrainTumorError, match="no such folder"):
        index(tmp_path / "cats" / "1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BrainTumorError, match="found is nothing"):
        find_sets(tmp_path / "empty")
    with pytest.raises(BrainTumorError, match="no manifest.csv"):
        manifests(tmp_path)


def test_a_set_of_broken_pictures_only_is_refused(tmp_path):
    (tmp_path / "glioma").mkdir()
    (tmp_path / "glioma" / "1.png").write_bytes(b"x")
    with pytest.raises(BrainTumorError, match="not one picture could be read.*1.png"):
        index(tmp_path)


# ---- counts

def as_table(edition, **change):
    return pd.DataFrame([{"split": split or None, "class": name or None} for (split, name), n in edition.items()
                         for _ in range(n + change.get(f"{split}_{name}", 0))])


def test_the_editions_add_up():
    assert [sum(edition.values()) for edition in EDITIONS.values()] == [7023, 7028, 7200, 3064, 3064]


@pytest.mark.parametrize("name", list(EDITIONS))
def test_each_edition_is_recognised(name):
    assert explain_counts(as_table(EDITIONS[name])) == [f"The counts are those of {name}."]


def test_differences_are_explained_not_refused():
    first = next(iter(EDITIONS))
    lines = explain_counts(as_table(EDITIONS[first], Training_glioma=-7, Testing_no_tumor=2))
    assert lines[0] == f"Closest to {first}; 7018 pictures are here." and len(lines) == 3
    assert any("Testing no_tumor: 407, published are 405 (+2): added" in line for line in lines)
    assert any("Training glioma: 1314, published are 1321 (-7): a part" in line for line in lines)
    assert "none of the published sets" in explain_counts(as_table({("", "glioma"): 40, ("", "no_tumor"): 12}))[0]


def test_balancing_is_the_thesis_arithmetic():
    plan = balance({"glioma": 1330, "meningioma": 1339, "no_tumor": 1595, "pituitary": 1457})
    assert plan["added"].tolist() == [670, 661, 405, 543] and plan["after"].eq(2000).all()
    assert balance({"glioma": 12}, target=10).loc["glioma"].tolist() == [12, 0, 12]


# ---- looking

def test_look_writes_numbers_that_are_known(tmp_path):
    class_folders(tmp_path / "s", names=("glioma", "notumor"), sides=("",), each=4)
    for number in range(4):
        Image.fromarray(np.tile(np.uint8([0, 0, 0, 255]), (32, 8))).save(tmp_path / "s" / "notumor" / f"{number}.png")
    table, _ = index(tmp_path / "s")
    look(table, tmp_path / "out")
    tally, size, light = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("counts", "sizes", "intensity"))
    assert tally["pictures"].tolist() == [4, 4] and size["commonest"].tolist() == ["40 x 48", "32 x 32"] and size["sizes"].tolist() == [1, 1]
    none = light.set_index("class").loc["no_tumor"]
    assert none["0.00"] == 0.75 and none["0.96"] == 0.25 and none["0.48"] == 0
    pd.testing.assert_frame_equal(intensities(table, limit=2, seed=1), intensities(table, limit=2, seed=1))


def test_sizes_are_those_published_where_known(tmp_path):
    table = pd.DataFrame({"source": "s", "class": "glioma", "width": [40, 40], "height": 48, "original_width": [512, None], "original_height": [512, None]})
    assert sizes(table).loc[0, ["sizes", "share"]].tolist() == [2, 0.5]


def test_the_sheet_has_a_row_a_class_and_the_seed_decides(tmp_path):
    table, _ = index(class_folders(tmp_path))
    shown = lambda seed: [axis.images[0].get_array().sum() for axis in sheet(table, each=2, seed=seed).axes if axis.images]
    assert len(shown(0)) == 8 and shown(0) == shown(0) != shown(1)


# ---- fetching

@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A stand-in for kagglehub: `raises` is thrown once for each entry, then the cache is given."""
    cache = class_folders(tmp_path / "cache")
    state = SimpleNamespace(calls=[], raises=[], cache=cache)

    def dataset_download(handle):
        state.calls.append(handle)
        if state.raises:
            raise state.raises.pop(0)
        return str(cache)

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download))
    return state


def named(name, *values, **attributes):
    error = type(name, (Exception,), {})(*values)
    vars(error).update(attributes)
    return error


def test_no_means_nothing_is_fetched(kaggle, tmp_path):
    asked = []
    assert get("classification", tmp_path / "new", confirm=lambda text: asked.append(text) or False) is None
    assert kaggle.calls == [] and not (tmp_path / "new").exists() and asked == [offer("classification", tmp_path / "new")]
    assert all(word in asked[0] for word in ("7,023", "150 MB", "CC0", "edition 1", "DSV/2645886", str(tmp_path / "new")))


def test_yes_fetches_the_pinned_edition_once_with_checksums(kaggle, tmp_path):
    place = get("classification", tmp_path / "deep" / "new", confirm=True)
    assert kaggle.calls == ["masoudnickparvar/brain-tumor-mri-dataset/versions/1"]
    record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    assert record["edition"] == 1 and len(record["files"]) == 24 and record["fingerprint"] == fingerprint(record["files"])
    assert changed(place) == [] and len(index(place)[0]) == 24
    assert get("classification", place, confirm=lambda text: pytest.fail("asked again")) == place and len(kaggle.calls) == 1
    assert sorted(p.name for p in place.parent.iterdir()) == ["new"]


def test_the_fingerprint_is_of_names_and_contents():
    import hashlib
    sums = {"b": "2", "a": "1"}
    assert fingerprint(sums) == hashlib.sha256(b"1  a\n2  b\n").hexdigest() == fingerprint({"a": "1", "b": "2"}) != fingerprint({"a": "2", "b": "1"})


def test_files_that_changed_are_told(kaggle, tmp_path):
    place = get("classification", tmp_path / "new", confirm=True)
    (place / "Training" / "glioma" / "0.png").write_bytes(b"x")
    (place / "Testing" / "notumor" / "1.png").unlink()
    assert changed(place) == ["Testing/notumor/1.png", "Training/glioma/0.png"]
    with pytest.raises(BrainTumorError, match="2 files are not as they were fetched.*Remove the folder"):
        get("classification", place, confirm=True)
    (place / RECORD).write_text("{")
    with pytest.raises(BrainTumorError, match="no readable download.json"):
        changed(place)


@pytest.mark.parametrize("error, remedy", [
    (ConnectionError("no route"), "could not be reached.*goes on where it stopped"),
    (TimeoutError(), "could not be reached"),
    (named("CredentialError", "?"), "KAGGLE_API_TOKEN"),
    (named("KaggleApiHTTPError", "?", response=SimpleNamespace(status_code=403)), "KAGGLE_API_TOKEN"),
    (named("KaggleApiHTTPError", "?", response=SimpleNamespace(status_code=404)), "not on Kaggle any more"),
    (named("DataCorruptionError", "?"), "thrown away. Try again"),
    (OSError(28, "No space left on device"), "disk is full.*KAGGLEHUB_CACHE"),
    (ValueError("odd"), "ValueError: odd"),
])  # fmt: skip
def test_each_failure_has_its_remedy_and_leaves_nothing(kaggle, tmp_path, error, remedy):
    kaggle.raises = [error]
    with pytest.raises(BrainTumorError, match=f"masoudnickparvar/brain-tumor-mri-dataset: .*{remedy}"):
        get("classification", tmp_path / "new", confirm=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]
    assert get("classification", tmp_path / "new", confirm=True) and len(kaggle.calls) == 2


def test_interrupted_while_downloading(kaggle, tmp_path):
    kaggle.raises = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        get("classification", tmp_path / "new", confirm=True)
    assert not (tmp_path / "new").exists()
    assert changed(get("classification", tmp_path / "new", confirm=True)) == []


def test_interrupted_while_copying_goes_on_where_it_stopped(kaggle, tmp_path, monkeypatch):
    real, written = data.write_beside, []

    def impatient(path):
        written.append(path.name)
        if len(written) == 11:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(data, "write_beside", impatient)
    with pytest.raises(KeyboardInterrupt):
        get("classification", tmp_path / "new", confirm=True)
    assert not (tmp_path / "new").exists() and len([p for p in (tmp_path / ".new.part").rglob("*") if p.is_file()]) == 10
    place = get("classification", tmp_path / "new", confirm=True)
    assert len(written) == 11 + 14 + 1 and changed(place) == []  # the fourteen that were missing, and the record
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "new"]


def test_a_target_that_is_taken_or_too_small_is_refused_before_asking(kaggle, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    asked = lambda text: pytest.fail("asked")
    with pytest.raises(BrainTumorError, match="something else here already"):
        get("classification", tmp_path / "taken", confirm=asked)
    monkeypatch.setattr(data.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**8))
    with pytest.raises(BrainTumorError, match="100 MB are free, about 300 are needed"):
        get("classification", tmp_path / "new", confirm=asked)
    with pytest.raises(BrainTumorError, match="no such set. There are classification and segmentation"):
        get("brats", confirm=asked)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine" and kaggle.calls == []


# ---- the command line

def run(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_index_is_0_1_or_2(capsys, tmp_path):
    class_folders(tmp_path / "mri")
    status, out, err = run(capsys, "data", "index", tmp_path / "mri", "--csv", tmp_path / "t" / "table.csv")
    assert status == 0 and "mri  glioma  Training  3 pictures" in out and "none of the published sets" in out
    assert len(pd.read_csv(tmp_path / "t" / "table.csv")) == 24
    (tmp_path / "mri" / "Training" / "glioma" / "脳.jpg").write_bytes(b"x")
    status, out, err = run(capsys, "data", "index", tmp_path / "mri")
    assert status == 1 and "left out: " in err and "脳.jpg" in err
    status, out, err = run(capsys, "data", "index", tmp_path / "gone")
    assert status == 2 and "no such folder" in err and out == ""


def test_get_is_0_1_or_2(capsys, kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda prompt: "n")
    status, out, err = run(capsys, "data", "get", "classification", "--to", tmp_path / "new")
    assert status == 1 and "Licence: CC0" in out and "Nothing was fetched" in out and kaggle.calls == []

    def nobody(prompt):
        raise EOFError

    monkeypatch.setattr(builtins, "input", nobody)
    status, out, err = run(capsys, "data", "get", "classification", "--to", tmp_path / "new")
    assert status == 2 and "--yes" in err and kaggle.calls == []
    status, out, err = run(capsys, "data", "get", "classification", "--to", tmp_path / "new", "--yes")
    assert status == 0 and out.index("about 150 MB") < out.index("none of the published sets") and len(kaggle.calls) == 1
    kaggle.raises = [ConnectionError()]
    status, out, err = run(capsys, "data", "get", "segmentation", "--to", tmp_path / "other", "--yes")
    assert status == 2 and "could not be reached" in err


def test_get_stopped_by_ctrl_c_is_130(capsys, kaggle, tmp_path):
    kaggle.raises = [KeyboardInterrupt()]
    assert run(capsys, "data", "get", "classification", "--to", tmp_path / "new", "--yes")[0] == 130


@pytest.mark.parametrize("words", [["data"], ["data", "get"], ["data", "get", "brats"], ["data", "index"], ["data", "fly"]])
def test_wrong_use_is_2(capsys, words):
    status, out, err = run(capsys, *words)
    assert status == 2 and "usage:" in err


# ---- the sets behind this project

def test_the_record_agrees_with_itself_and_with_the_real_sets(root, request):
    tally, size, light = (pd.read_csv(root / "runs" / "data" / f"{name}.csv", keep_default_na=False) for name in ("counts", "sizes", "intensity"))
    by_class = tally.groupby(["source", "class"])["pictures"].sum()
    assert by_class.tolist() == size.set_index(["source", "class"]).loc[by_class.index, "pictures"].tolist()
    assert np.allclose(light.iloc[:, 3:].sum(axis=1), 1, atol=1e-3) and (light["pictures"] <= 200).all()
    shared = request.getfixturevalue("shared_data")
    table = pd.concat([read_manifest(path) for path in manifests(shared)])
    pd.testing.assert_frame_equal(counts(table), tally, check_dtype=False)
    assert table.loc[table["source"] == "figshare", "fold"].between(1, 5).all()

"""Loading and balancing: copies on disk and on the fly, batches, small tumours."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.data.datasets import index_folder, read_pixels_8bit
from brain_tumor.data.loading import (
    balance_by_copies,
    balanced_rows,
    epoch_stream,
    leaked_copies,
    load_images,
    record_small_tumours,
    smallest_tumours,
    with_copies,
)
from brain_tumor.data.splits import read_data, read_set, split_hash, thesis_segmentation
from brain_tumor.imaging.augmentation import ThesisAugmentation
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

needs_keras = pytest.mark.skipif(
    find_spec("keras") is None, reason="Keras comes with the extra `workbook`"
)


def picture(path, seed, size=(60, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.GaussianBlur(
        np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8), (9, 9), 0
    )
    cv2.imencode(".png", cv2.normalize(pixels, None, 0, 255, cv2.NORM_MINMAX))[1].tofile(path)
    return pixels


def folder_of(folder, counts):
    for name, count in counts.items():
        for number in range(count):
            picture(folder / name / f"{number}.png", [CLASSES.index(name), number])
    return index_folder(folder)[0].assign(group=lambda t: "g " + t["image"], role="train")


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.csv"
    }


# ---- balancing on disk


def test_every_class_is_filled_and_every_original_comes_up_equally_often(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 3, "meningioma": 8, "no_tumor": 5})
    whole, unread = balance_by_copies(table, tmp_path / "more", target=7, seed=4)
    assert (
        whole["class"].value_counts().to_dict() == {"glioma": 7, "meningioma": 8, "no_tumor": 7}
        and unread.empty
    )
    copies = whole[whole["original"].notna()]
    assert len(copies) == 6 and whole[: len(table)]["path"].tolist() == table["path"].tolist()
    assert copies[copies["class"] == "glioma"]["original"].value_counts().tolist() == [2, 1, 1]
    assert (copies["group"] == "g " + copies["original"]).all() and (
        copies["role"] == "train"
    ).all()
    assert (
        all(read_pixels_8bit(path).shape == (150, 150) for path in copies["path"])
        and copies["width"].eq(150).all()
    )
    assert all(
        f"{image.split('/')[1].split('.')[0]}" == original.split("/")[1].split(".")[0]
        for image, original in zip(copies["image"], copies["original"])
    )


def test_a_copy_is_a_disturbed_picture_of_its_original(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2})
    still = ThesisAugmentation(rotation=0, shift=0, zoom=0, flip=0, brightness=0)
    whole, _ = balance_by_copies(table, tmp_path / "still", target=4, how=still)
    moved, _ = balance_by_copies(table, tmp_path / "moved", target=4)
    for (_, copy), path in zip(whole[2:].iterrows(), moved["path"][2:]):
        original = table["path"][table["image"] == copy["original"]].item()
        wanted = cv2.resize(read_pixels_8bit(original), (150, 150))
        assert (
            cv2.PSNR(read_pixels_8bit(copy["path"]), wanted)
            > 30
            > cv2.PSNR(read_pixels_8bit(path), wanted)
        )
    assert len({path.read_bytes() for path in (tmp_path / "moved").rglob("*.jpg")}) == 2


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 3, "pituitary": 2})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        balance_by_copies(table, tmp_path / name, target=5, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not set(files(tmp_path / "a").values()) & set(files(tmp_path / "c").values())


def test_the_folder_is_a_set_that_can_be_read(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2, "no_tumor": 4})
    balance_by_copies(table, tmp_path / "more", target=4)
    read = read_set(tmp_path / "more" / "manifest.csv")
    assert (
        len(read) == 2
        and (read["role"] == "train").all()
        and read["group"].str.startswith("g glioma/").all()
    )
    assert "original" in pd.read_csv(tmp_path / "more" / "manifest.csv") and read_pixels_8bit(
        read["path"][0]
    ).shape == (150, 150)


def test_nothing_to_add_adds_nothing(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2})
    whole, unread = balance_by_copies(table, tmp_path / "more", target=2)
    assert len(whole) == 2 and unread.empty and not list((tmp_path / "more").rglob("*.jpg"))


def test_odd_names_do_not_get_into_each_others_way(tmp_path):
    for number, name in enumerate(
        ["脳 é.png", "a b'c.png", "ü#%.png", "deep/脳 é.png", f"{'x' * 90}.png", ".."]
    ):
        if name != "..":
            picture(tmp_path / "mri" / name, number)
    names = [
        p.relative_to(tmp_path / "mri").as_posix()
        for p in sorted((tmp_path / "mri").rglob("*.png"))
    ]
    table = pd.DataFrame(
        {
            "source": "mri",
            "image": names,
            "path": [str(tmp_path / "mri" / n) for n in names],
            "class": "glioma",
            "group": names,
            "role": "train",
            "mask": None,
            "width": 50,
            "height": 60,
        }
    )
    whole, unread = balance_by_copies(table, tmp_path / "möre", target=12)
    assert (
        unread.empty
        and len(list((tmp_path / "möre").rglob("*.jpg"))) == 7
        and whole["path"].is_unique
    )
    assert all(os.path.isfile(path) for path in whole["path"])


def test_a_broken_file_is_listed_and_another_takes_its_turn(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 4, "meningioma": 9})
    for name in ("0", "2"):
        (tmp_path / "mri" / "glioma" / f"{name}.png").write_bytes(b"\x89PNG nothing")
    os.remove(tmp_path / "mri" / "glioma" / "3.png")
    whole, unread = balance_by_copies(table, tmp_path / "more", target=9)
    assert set(whole["original"].dropna()) == {"glioma/1.png"} and len(whole) == 18
    assert (
        len(unread) == 3
        and (unread["reason"].str.len() > 10).all()
        and not any(path in reason for path, reason in zip(unread["path"], unread["reason"]))
        and set(unread["path"]) == set(table["path"][[0, 2, 3]])
    )
    again, _ = balance_by_copies(table, tmp_path / "more", target=9)
    assert again.equals(whole)


def test_a_class_without_a_readable_picture_is_an_error(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2, "meningioma": 3})
    for number in range(2):
        (tmp_path / "mri" / "glioma" / f"{number}.png").write_bytes(b"")
    with raises(ErrorCode.FILE_UNREADABLE, "glioma", 2):
        balance_by_copies(table, tmp_path / "more", target=3)


def test_another_request_for_the_same_folder_is_refused(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2, "meningioma": 4})
    balance_by_copies(table, tmp_path / "more", target=4)
    for other in (
        dict(seed=1),
        dict(target=5),
        dict(side=100),
        dict(how=ThesisAugmentation(rotation=5)),
    ):
        with raises(ErrorCode.RESUME_MISMATCH, "more"):
            balance_by_copies(table, tmp_path / "more", **{"target": 4} | other)
    with raises(ErrorCode.RESUME_MISMATCH, "more"):
        balance_by_copies(table[1:], tmp_path / "more", target=4)


def test_a_folder_that_cannot_be_written_is_no_broken_picture(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2, "meningioma": 4})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "glioma").write_text("a file where a folder should be")
    with raises(ErrorCode.WRITE_FAILED, "more"):
        balance_by_copies(table, tmp_path / "more", target=4)


KILLED = """
import os, sys
from pathlib import Path
import pandas as pd
from brain_tumor.data.loading import balance_by_copies
write, calls = Path.write_bytes, []
def write_bytes(self, data):
    calls.append(self)
    if len(calls) == 25:
        write(self, data[:len(data) // 2])
        os._exit(9)  # as a kill: nothing is tidied up
    write(self, data)
Path.write_bytes = write_bytes
balance_by_copies(pd.read_pickle(sys.argv[1]), sys.argv[2], target=20, seed=1)
"""


def test_a_kill_in_the_middle_of_a_file_leaves_whole_files_and_the_next_call_goes_on(
    tmp_path, root
):
    table = folder_of(tmp_path / "mri", {"glioma": 3, "meningioma": 2})
    table.to_pickle(tmp_path / "table.pkl")
    words = [sys.executable, "-c", KILLED, str(tmp_path / "table.pkl"), str(tmp_path / "cut")]
    assert (
        subprocess.run(
            words, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True
        ).returncode
        == 9
    )
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/*/[!.]*.jpg")}
    assert len(done) == 24 and all(read_pixels_8bit(path).shape == (150, 150) for path in done)
    assert (
        not (tmp_path / "cut" / "manifest.csv").exists()
        and len(list(tmp_path.glob("cut/*/.*.jpg"))) == 1
    )
    resumed, _ = balance_by_copies(table, tmp_path / "cut", target=20, seed=1)
    assert resumed["class"].value_counts().eq(20).all()
    assert all(path.stat().st_mtime_ns == then for path, then in done.items()), (
        "nothing is made twice"
    )
    balance_by_copies(table, tmp_path / "once", target=20, seed=1)
    assert files(tmp_path / "cut") == files(tmp_path / "once"), (
        "the same to the byte, and no half file is left"
    )


def test_what_was_asked_for_is_noted_without_a_place(tmp_path):
    table = folder_of(tmp_path / "mri", {"glioma": 2, "meningioma": 3})
    balance_by_copies(table, tmp_path / "more", target=3)
    note = (tmp_path / "more" / "balance.json").read_text(encoding="utf-8")
    assert json.loads(note)["augmentation"]["rotation"] == 10 and str(tmp_path) not in note
    assert str(tmp_path) not in (tmp_path / "more" / "manifest.csv").read_text(encoding="utf-8")


# ---- balancing on the fly


def test_rows_are_balanced_by_name_too_and_a_class_of_one_is_repeated():
    labels = np.array(["glioma"] * 5 + ["pituitary"] + ["no_tumor"] * 3)
    rows = balanced_rows(labels, seed=2)
    assert pd.Series(labels[rows]).value_counts().to_dict() == {
        "glioma": 5,
        "pituitary": 5,
        "no_tumor": 5,
    }
    assert (
        np.bincount(rows)[:5].tolist() == [1] * 5
        and np.bincount(rows)[5] == 5
        and sorted(np.bincount(rows)[6:].tolist()) == [1, 2, 2]
    )
    assert len(balanced_rows(labels, target=3)) == 5 + 3 + 3, "what is larger stays as it is"


# ---- small tumours


@pytest.fixture(scope="module")
def full():
    """As many rows as the thesis has, with areas."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "source": "f",
            "image": [f"{i}.png" for i in range(3064)],
            "class": "glioma",
            "group": rng.integers(0, 233, 3064).astype(str),
        }
    )
    return table.assign(
        role=table["group"].map(
            lambda g: ("train", "train", "train", "validation", "test")[int(g) % 5]
        )
    ), rng.random(3064)


def test_before_the_split_there_are_780_copies_and_the_thesis_counts(full):
    whole = smallest_tumours(*full, when="before")
    assert (
        len(whole) == 3844 and (whole["copied"] != "").sum() == 780 and whole["role"].isna().all()
    )
    assert whole["copied"][3064:].str.contains("before.*leak").all() and whole["image"].is_unique
    assert set(whole["original"][3064:]) == set(np.argsort(full[1])[:780])
    split = whole.assign(role=thesis_segmentation(whole.assign(mask="m.png")))
    assert split["role"].value_counts().to_dict() == {"train": 2308, "validation": 768, "test": 768}
    assert 0.45 < leaked_copies(split) / 780 < 0.65, "1 - (0.6² + 0.2² + 0.2²) = 0.56 by chance"


def test_after_the_split_only_training_rows_are_copied(full):
    whole = smallest_tumours(*full)
    copies = whole[whole["copied"] != ""]
    train = np.flatnonzero(full[0]["role"] == "train")
    assert (
        len(copies) == round(len(train) * 780 / 3064)
        and (copies["role"] == "train").all()
        and leaked_copies(whole) == 0
    )
    assert set(copies["original"]) == set(train[np.argsort(full[1][train])[: len(copies)]])
    assert (
        whole["role"][:3064].equals(full[0]["role"])
        and (copies["copied"] == "after the split").all()
    )


def test_rows_without_a_tumour_are_never_copied_and_wrong_requests_are_refused(full):
    table, area = full[0][:20], np.r_[np.zeros(15), np.full(5, 0.1)]
    assert set(smallest_tumours(table, area, when="before", copies=5)["original"][20:]) == set(
        range(15, 20)
    )
    with raises(ErrorCode.ARGUMENT_INVALID, 6, 5):
        smallest_tumours(table, area, copies=6, when="before")
    with raises(ErrorCode.ARGUMENT_INVALID, "during"):
        smallest_tumours(table, area, when="during")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    pytest.importorskip("nilearn", reason="phantoms are made with nilearn")
    from brain_tumor.imaging.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder / "set", n=17, seed=3, size=96)
    return load_images(read_data(folder), 64)  # `table` says where they lie


def test_copies_of_pictures_follow_the_table_and_a_foreign_table_is_refused(phantoms):
    extended = smallest_tumours(
        phantoms.table, phantoms.masks.mean((1, 2)), copies=3, when="before"
    )
    first, second = (with_copies(phantoms, extended, seed=seed) for seed in (1, 1))
    assert (
        len(first.labels) == 20
        and np.array_equal(first.pictures, second.pictures)
        and np.array_equal(first.masks, second.masks)
    )
    assert (
        (first.labels[17:] == phantoms.labels[extended["original"][17:]]).all()
        and first.has_mask.all()
        and first.table is extended
    )
    assert not np.array_equal(
        first.pictures[17:], with_copies(phantoms, extended, seed=2).pictures[17:]
    )
    before = phantoms.pictures.copy()
    with_copies(phantoms, extended)
    assert np.array_equal(before, phantoms.pictures), "the originals are left alone"
    with raises(ErrorCode.DATA_INVALID):
        with_copies(phantoms.rows(np.arange(9)), extended)


def test_the_record_counts_what_is_torn(phantoms):
    folder = Path(phantoms.table["path"][0]).parents[2]
    found = record_small_tumours(folder, "set").set_index("when")
    assert found.loc["before", "copies"] == round(phantoms.with_tumour.sum() * 780 / 3064)
    assert (
        found.loc["before", ["train", "validation", "test"]].sum()
        == len(phantoms.table) + found.loc["before", "copies"]
    )
    assert found.loc["after", ["torn", "copies_outside_train"]].tolist() == [0, 0]
    assert found.loc["after", "split"].endswith(split_hash(read_data(folder, copies=True)))


# ---- the pipeline


@needs_keras
def test_batches_hold_every_row_once_and_the_last_one_is_smaller(phantoms):
    data = epoch_stream(phantoms.pictures, phantoms.labels, how=None, batch=6, seed=3)
    sizes = [len(data[i][0]) for i in range(len(data))]
    assert sizes == [6, 6, 5]
    seen = np.concatenate([data[i][0][..., 0] for i in range(3)])
    wanted = phantoms.pictures / np.float32(255)
    place = [int(np.abs(wanted - one).sum((1, 2)).argmin()) for one in seen]
    assert (
        sorted(place) == list(range(17))
        and place != list(range(17))
        and np.abs(wanted[place] - seen).max() == 0
    )
    assert (
        np.concatenate([data[i][1] for i in range(3)]).argmax(1) == phantoms.labels[place]
    ).all()


@needs_keras
def test_outlines_go_where_their_pictures_go(phantoms):
    inside = np.where(phantoms.masks > 0, 255, 0).astype(np.uint8)
    x, y = epoch_stream(
        inside, inside, "segmentation", how=ThesisAugmentation(brightness=0), batch=17
    )[0]
    assert x.shape == (17, 64, 64, 3) and y.shape == (17, 64, 64, 1) and set(np.unique(y)) == {0, 1}
    for one, outline in zip(x[..., :1] > 0.5, y > 0.5):
        assert (one & outline).sum() >= 0.8 * (one | outline).sum()
    assert not np.array_equal(y[..., 0] * 255, inside)


@needs_keras
def test_colour_and_scaling_reach_the_network(phantoms):
    colour = np.stack([phantoms.pictures, 0 * phantoms.pictures, 0 * phantoms.pictures], -1)
    x, _ = epoch_stream(
        colour, phantoms.labels, "ResNet50", "imagenet", rows=np.arange(4), how=None
    )[0]
    assert (
        np.abs(x[..., 2] - (phantoms.pictures[:4] - 123.68)).max() < 1e-4
        and np.abs(x[..., 0] + 103.939).max() < 1e-4
    )


@needs_keras
@pytest.mark.parametrize(
    "spoil, code, parts",
    [
        (lambda p, t: (p / 255, t), ErrorCode.DATA_INVALID, ("float64", "uint8")),
        (lambda p, t: (p, t[1:]), ErrorCode.DATA_INVALID, (16, 17)),
        (lambda p, t: (p, t + 4), ErrorCode.LABEL_UNKNOWN, (0, 3)),
        (
            lambda p, t: (p, np.zeros((17, 32, 32), np.uint8)),
            ErrorCode.MASK_INVALID,
            ("(32, 32)", "(64, 64)"),
        ),
        (lambda p, t: (p[:0], t[:0]), ErrorCode.DATA_MISSING, ()),
    ],
)
def test_wrong_arrays_are_rejected_before_the_first_step(phantoms, spoil, code, parts):
    with raises(code, *parts):
        epoch_stream(*spoil(phantoms.pictures, phantoms.labels))


BATCHES = """
import hashlib, sys, numpy as np, keras
from brain_tumor.data.loading import balanced_rows, epoch_stream
held = np.load(sys.argv[1])
digest = hashlib.sha256()
for epoch in range(2):
    rows = balanced_rows(held["labels"], epoch)
    how = dict(rows=rows, epoch=epoch, seed=5, batch=8)
    data = epoch_stream(held["pictures"], held["labels"], "VGG19", "imagenet", **how)
    for part in (part for i in range(len(data)) for part in data[i]):
        digest.update(part.tobytes())
layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, activation="softmax")]
model = keras.Sequential([keras.Input((64, 64, 3)), *layers])
model.compile("sgd", "categorical_crossentropy")
model.fit(data, verbose=0)
print(keras.backend.backend(), digest.hexdigest())
"""


@needs_keras
def test_batches_are_the_same_on_every_backend(phantoms, tmp_path, root):
    there = [name for name in ("tensorflow", "torch", "jax") if find_spec(name)]
    if len(there) < 2:
        pytest.skip("needs two of Keras' backends")
    np.savez(tmp_path / "held.npz", pictures=phantoms.pictures, labels=phantoms.labels)
    said = {}
    for backend in there:
        done = subprocess.run(
            [sys.executable, "-c", BATCHES, str(tmp_path / "held.npz")],
            cwd=root,
            capture_output=True,
            text=True,
            env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(root)},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        name, said[backend] = done.stdout.split()[-2:]
        assert name == backend
    assert len(set(said.values())) == 1


# ---- what the chapter quotes


def test_the_recorded_numbers_are_those_of_the_data(shared_data, root):
    pd.testing.assert_frame_equal(
        record_small_tumours(shared_data),
        pd.read_csv(root / "runs" / "pipeline" / "small_tumours.csv"),
        check_dtype=False,
    )

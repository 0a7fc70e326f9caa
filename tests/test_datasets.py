"""Reading and checking datasets: every layout, every rejection (small generated folders)."""

import pandas as pd
import pytest
from errors import raises
from pictures import class_folders, mat_set, picture

from brain_tumor.data.datasets import (
    TABLE_COLUMNS,
    find_manifests,
    find_sets,
    folder_class,
    folder_layout,
    index_folder,
    read_data_manifest,
    read_pixels,
)
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

# ---- layouts


@pytest.mark.parametrize(
    "name, meant",
    [
        ("glioma", "glioma"),
        ("Glioma_Tumor", "glioma"),
        ("meningioma tumour", "meningioma"),
        ("no_tumor", "no_tumor"),
        ("NoTumor", "no_tumor"),
        ("no", "no_tumor"),
        ("pituitary_tumor", "pituitary"),
        ("yes", None),
        ("tumor", None),
        ("Training", None),
        ("", None),
    ],
)
def test_the_class_is_read_from_the_folders_name(name, meant):
    assert folder_class(name) == meant


def test_class_folders_under_training_and_testing(tmp_path):
    table, left_out = index_folder(class_folders(tmp_path / "mri"))
    assert list(table.columns) == list(TABLE_COLUMNS) and len(table) == 24 and left_out.empty
    assert table.groupby(["split", "class"]).size().eq(3).all() and set(table["class"]) == set(
        CLASSES
    )
    assert (
        set(table["source"]) == {"mri"}
        and table["width"].eq(40).all()
        and table["height"].eq(48).all()
    )
    assert (
        table["image"][0] == "Testing/glioma/0.png"
        and table[["patient", "group", "fold", "mask", "spacing_mm"]].isna().all().all()
    )


def test_class_folders_directly_and_nested_one_level(tmp_path):
    class_folders(tmp_path / "archive" / "inner", sides=("",))
    (tmp_path / "archive" / "__MACOSX").mkdir()
    nested, _ = index_folder(tmp_path / "archive")
    direct, _ = index_folder(tmp_path / "archive" / "inner")
    pd.testing.assert_frame_equal(nested, direct)
    assert nested["split"].isna().all() and set(nested["source"]) == {"inner"}


def flat_pairs(folder):
    for place in ("images", "masks"):
        for stem in ("1", "2"):
            picture(folder / place / f"{stem}.png")


def small_manifest(folder):
    for n in range(2):
        picture(folder / "p" / f"{n}.png")
    pd.DataFrame({"image": ["p/0.png", "p/1.png"], "class": "glioma"}).to_csv(
        folder / "manifest.csv", index=False
    )


@pytest.mark.parametrize(
    "make, kind",
    [
        (class_folders, "classes"),
        (flat_pairs, "masks"),
        (mat_set, "mat"),
        (small_manifest, "manifest"),
    ],
)
def test_every_layout_is_found_in_the_folder_that_an_archive_adds(tmp_path, make, kind):
    make(tmp_path / "archive" / "Inner folder")
    (tmp_path / "archive" / "__MACOSX").mkdir()
    assert [folder_layout(place) for place in find_sets(tmp_path / "archive")] == [kind]
    nested, left_out = index_folder(tmp_path / "archive")
    pd.testing.assert_frame_equal(nested, index_folder(tmp_path / "archive" / "Inner folder")[0])
    assert left_out.empty and set(nested["source"]) == {"Inner folder"}


def test_files_come_in_the_order_of_their_names_as_strings(tmp_path):
    for number in (1, 2, 10, 100):
        picture(tmp_path / "glioma" / f"{number}.png")
    assert index_folder(tmp_path)[0]["image"].tolist() == [
        f"glioma/{n}.png" for n in (1, 10, 100, 2)
    ]


def test_odd_names_and_all_picture_formats(tmp_path):
    names = ["脳 é.png", "a b'c.jpg", "ü#%.webp", "x.BMP", "y.tiff", "-z.gif"]
    for name in names:
        picture(tmp_path / "glioma" / name)
    table, left_out = index_folder(tmp_path, thorough=True)
    assert sorted(table["image"]) == sorted(f"glioma/{name}" for name in names) and left_out.empty
    assert all(read_pixels(path).shape == (48, 40) for path in table["path"])


def test_images_and_masks(tmp_path):
    for stem in ("1", "2", "3"):
        picture(tmp_path / "images" / f"{stem}.png")
    for stem in ("1", "2_mask", "9"):
        picture(tmp_path / "masks" / f"{stem}.png")
    table, left_out = index_folder(tmp_path)
    assert folder_layout(tmp_path) == "masks" and table["class"].isna().all()
    assert [
        mask and mask.split("/")[-1]
        for mask in table["mask"].astype(object).where(table["mask"].notna(), None)
    ] == ["1.png", "2_mask.png", None]
    assert (
        left_out["path"].tolist() == [str(tmp_path / "masks" / "9.png")]
        and "mask" in left_out["reason"][0]
    )


def test_a_manifest_brings_its_groups(tmp_path):
    rows = [
        {
            "image": f"p/{n}.png",
            "class": "glioma",
            "group": f"G{n // 2}",
            "fold": 1 + n // 2,
            "spacing_mm": 0.5,
            "role": "train",
        }
        for n in range(4)
    ]
    for row in rows:
        picture(tmp_path / "set" / row["image"])
    pd.DataFrame(rows).to_csv(tmp_path / "set" / "manifest.csv", index=False)
    table, left_out = index_folder(tmp_path / "set")
    assert (
        table["group"].tolist() == ["G0", "G0", "G1", "G1"]
        and table["fold"].tolist() == [1, 1, 2, 2]
        and left_out.empty
    )
    assert (
        table["spacing_mm"].eq(0.5).all()
        and table["width"].eq(40).all()
        and table["mask"].isna().all()
    )
    assert (
        read_data_manifest(find_manifests(tmp_path)[0])["path"].tolist() == table["path"].tolist()
    )


@pytest.mark.parametrize(
    "columns, groups",
    [
        ({"patient": ["A", "A", "B"]}, ["A", "A", "B"]),
        ({"patient": ["A", "A", "B"], "group": ["g1", "g1", None]}, ["g1", "g1", None]),
        ({}, [None, None, None]),
    ],
)
def test_patients_are_groups_where_the_manifest_names_no_groups(tmp_path, columns, groups):
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    pd.DataFrame({"image": [f"{n}.png" for n in range(3)], "class": "glioma"} | columns).to_csv(
        tmp_path / "manifest.csv", index=False
    )
    found = index_folder(tmp_path)[0]["group"]
    assert found.astype(object).where(found.notna(), None).tolist() == groups


def test_a_manifest_that_is_wrong_about_a_size_leaves_the_picture_out(tmp_path):
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(3)],
            "class": "glioma",
            "width": [40, 40, 99],
            "height": 48,
        }
    ).to_csv(tmp_path / "manifest.csv", index=False)
    table, left_out = index_folder(tmp_path)
    assert len(table) == 2 and left_out["path"].tolist() == [str(tmp_path / "2.png")]
    assert "40 x 48" in left_out["reason"][0] and "99 x 48" in left_out["reason"][0]


def test_a_folder_of_sets_is_one_table(tmp_path):
    class_folders(tmp_path / "one")
    for name in ("images/1.png", "images/2.png"):
        picture(tmp_path / "healthy" / name)
    pd.DataFrame({"image": ["images/1.png", "images/2.png"], "class": "no_tumor"}).to_csv(
        tmp_path / "healthy" / "manifest.csv", index=False
    )
    table, _ = index_folder(tmp_path)
    assert table["source"].value_counts().to_dict() == {"one": 24, "healthy": 2}


# ---- broken and wrong input


def test_broken_pictures_are_listed_and_the_rest_goes_on(tmp_path):
    class_folders(tmp_path)
    place = tmp_path / "Training" / "glioma"
    (place / "a.jpg").write_bytes(b"no picture")
    (place / "b.png").write_bytes(b"")
    (place / "c.txt").write_text("notes")
    (place / ".DS_Store").write_bytes(b"x")
    (tmp_path / "Training" / "metastasis").mkdir()
    table, left_out = index_folder(tmp_path)
    assert len(table) == 24
    reasons = {
        path.split("/")[-1]: reason for path, reason in zip(left_out["path"], left_out["reason"])
    }
    assert set(reasons) == {"a.jpg", "b.png", "c.txt", "metastasis"}
    assert "UnidentifiedImageError" in reasons["a.jpg"] and ".png" in reasons["c.txt"]
    assert all(name in reasons["metastasis"] for name in CLASSES)


def test_a_jpeg_that_stops_halfway_is_found_by_a_thorough_look(tmp_path):
    class_folders(tmp_path)
    whole = picture(tmp_path / "Training" / "glioma" / "half.jpg", size=(200, 200)).read_bytes()
    (tmp_path / "Training" / "glioma" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    assert len(index_folder(tmp_path)[1]) == 0
    assert index_folder(tmp_path, thorough=True)[1]["path"].tolist() == [
        str(tmp_path / "Training" / "glioma" / "half.jpg")
    ]


def test_a_broken_mask_leaves_the_picture_without_one(tmp_path):
    picture(tmp_path / "images" / "1.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "1.png").write_bytes(b"broken")
    table, left_out = index_folder(tmp_path)
    assert (
        len(table) == 1
        and table["mask"].isna().all()
        and left_out["path"].tolist() == [str(tmp_path / "masks" / "1.png")]
    )


def test_a_mask_of_another_size_is_rejected(tmp_path):
    for stem in ("1", "2"):
        picture(tmp_path / "images" / f"{stem}.png")
    picture(tmp_path / "masks" / "1.png")
    picture(tmp_path / "masks" / "2.png", size=(48, 40))
    with raises(ErrorCode.MASK_INVALID, tmp_path, "2.png", "48 x 40", "40 x 48", ": 1."):
        index_folder(tmp_path)


def test_missing_files_of_a_manifest_are_named(tmp_path):
    picture(tmp_path / "0.png")
    pd.DataFrame(
        {"image": ["0.png", "gone.png"], "mask": [None, "m.png"], "class": "glioma"}
    ).to_csv(tmp_path / "manifest.csv", index=False)
    with raises(ErrorCode.FILE_NOT_FOUND, "manifest.csv", "2 of its 3", "gone.png, m.png"):
        index_folder(tmp_path)


@pytest.mark.parametrize(
    "content, code, name",
    [
        (b"", ErrorCode.FILE_UNREADABLE, ""),
        (b"\xff\xfe\x00", ErrorCode.FILE_UNREADABLE, ""),
        (b"image,group\na.png,1\n", ErrorCode.DATA_MISSING, ": class."),
    ],
)
def test_a_manifest_that_is_none(tmp_path, content, code, name):
    (tmp_path / "manifest.csv").write_bytes(content)
    with raises(code, "manifest.csv", name):
        index_folder(tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_with_one_picture_or_none_is_rejected(tmp_path, count):
    class_folders(tmp_path, names=("glioma", "meningioma"), sides=("",))
    (tmp_path / "pituitary").mkdir()
    for number in range(count):
        picture(tmp_path / "pituitary" / f"{number}.png")
    with raises(ErrorCode.DATA_MISSING, f"the class pituitary: {count}."):
        index_folder(tmp_path)


def test_a_folder_without_classes_is_rejected_and_its_content_named(tmp_path):
    picture(tmp_path / "cats" / "1.png")
    with raises(ErrorCode.DATA_MISSING, tmp_path, "glioma, meningioma", "cats"):
        index_folder(tmp_path)
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path / "gone", "brain_tumor data get"):
        index_folder(tmp_path / "gone")
    with raises(ErrorCode.FILE_NOT_FOUND, "1.png"):
        index_folder(tmp_path / "cats" / "1.png")
    (tmp_path / "empty").mkdir()
    with raises(ErrorCode.DATA_MISSING, tmp_path / "empty", "nothing"):
        find_sets(tmp_path / "empty")
    with raises(ErrorCode.DATA_MISSING, tmp_path, "manifest.csv"):
        find_manifests(tmp_path)


def test_a_set_of_broken_pictures_only_is_rejected(tmp_path):
    (tmp_path / "glioma").mkdir()
    (tmp_path / "glioma" / "1.png").write_bytes(b"x")
    with raises(ErrorCode.DATA_MISSING, tmp_path, "1.png"):
        index_folder(tmp_path)

"""The audit: what it counts in folders with known faults, what it writes, what it rejects."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from errors import raises

import brain_tumor
from brain_tumor.cli import main
from brain_tumor.data.audit import Audit, audit
from brain_tumor.imaging.phantoms import phantom
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import INTENDED_USE

pytest.importorskip("sklearn", reason="the audit needs the extra `workbook`")
KINDS = ("glioma", "meningioma", "no_tumor", "pituitary")


def put(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(path.suffix, picture)[1].tofile(path)


@pytest.fixture(scope="module")
def heads():
    return [phantom(KINDS[n % 4], plane="axial", seed=500 + n, size=128).pixels for n in range(16)]


@pytest.fixture
def clean(heads, tmp_path):
    """Four classes in Training and Testing, two heads each, none twice."""
    for number, head in enumerate(heads):
        put(
            tmp_path
            / "mri"
            / ("Training" if number < 8 else "Testing")
            / KINDS[number % 4]
            / f"{number}.png",
            head,
        )
    return tmp_path / "mri"


def numbers(made: Audit) -> dict:
    return dict(zip(made.findings["finding"], made.findings["pictures"]))


def test_a_clean_folder_has_no_findings(clean):
    made = audit(clean)
    found = numbers(made)
    assert found.pop("different slices, all copies counted once") == 16 and set(found.values()) == {
        0
    }
    assert (
        made.pairs.empty
        and made.conflicts.empty
        and made.left_out.empty
        and made.pictures["copies"].tolist() == list(range(16))
    )
    assert "None." in made.save(clean.parent / "out").read_text(encoding="utf-8")


def test_a_copy_counts_in_the_subset_that_is_tested(clean, heads):
    put(clean / "Testing/glioma/ü #1.png", heads[0][:, ::-1])
    put(clean / "Testing/glioma/twin.png", heads[8])
    made = audit(clean)
    found = numbers(made)
    assert (
        found["pictures in Testing with a copy in Training"] == 1
        and found["pictures with the very pixels of another"] == 1
    )
    assert found["pictures that show the same slice as another"] == 4
    across = made.across("split")
    assert (
        len(across) == 1
        and across["mirrored"][0]
        and "Testing/glioma/ü #1.png" in across[["image_1", "image_2"]].values
    )


def test_a_twin_of_a_copy_is_seen_as_well(clean, heads):
    """Exact duplicates are searched for once; both must count all the same."""
    spoilt = cv2.resize(heads[1], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    for name in ("a.png", "b.png"):
        put(clean / "Testing/meningioma" / name, spoilt)
    assert numbers(audit(clean))["pictures in Testing with a copy in Training"] == 2


def test_two_labels_of_one_slice_are_a_conflict_and_no_label_is_none(clean, heads):
    put(clean / "Training/pituitary/wrong.png", heads[0])
    conflicts = audit(clean).conflicts
    assert conflicts[["class_1", "class_2"]].values.tolist() == [["glioma", "pituitary"]]
    put(clean.parent / "masks_only/images/1.png", heads[0])
    put(clean.parent / "masks_only/masks/1.png", np.zeros_like(heads[0]))
    put(clean.parent / "masks_only/images/2.png", heads[3])
    both = audit(clean, clean.parent / "masks_only")
    assert len(both.conflicts) == 1, "an image without a class contradicts no other"
    assert numbers(both)["pictures of masks_only that copy one of mri"] == 2


def test_groups_and_roles_of_a_manifest_are_used(clean, heads):
    rows = [
        ("a.png", "glioma", "P1", "train"),
        ("b.png", "glioma", "P2", "test"),
        ("c.png", "no_tumor", "P3", "train"),
        ("d.png", "no_tumor", "P4", "test"),
    ]
    for (name, *_), head in zip(rows, (heads[0], heads[0][:, ::-1], heads[2], heads[6])):
        put(clean.parent / "set" / name, head)
    pd.DataFrame(rows, columns=["image", "class", "group", "role"]).to_csv(
        clean.parent / "set/manifest.csv", index=False
    )
    found = numbers(audit(clean.parent / "set"))
    assert found["pictures in test with a copy in train"] == 1
    assert not any("Training" in name for name in found), (
        "findings that a dataset cannot support are left out"
    )


def test_broken_files_are_listed_and_the_rest_is_audited(clean, heads):
    (clean / "Training/glioma/x.png").write_bytes(b"no picture")
    whole = (clean / "Training/glioma/0.png").read_bytes()
    (clean / "Training/glioma/cut.png").write_bytes(whole[: len(whole) // 2])
    made = audit(clean)
    assert {"x.png"} <= {
        path.split("/")[-1] for path in made.left_out["path"].str.replace("\\", "/")
    }
    assert len(made.pictures) >= 16


def test_the_records_hold_no_path_of_this_machine(clean, heads, tmp_path):
    put(clean / "Testing/no_tumor/copy.png", heads[2])
    (clean / "Training/glioma/x.png").write_bytes(b"no picture")
    made = audit(clean)
    page = made.save(tmp_path / "report")
    for path in page.parent.glob("*.csv"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path.name
    text = page.read_text(encoding="utf-8")
    assert (
        INTENDED_USE in text
        and text.count("<img") == 2 == text.count(' alt="')
        and "http" not in text.replace("http-equiv", "")
    )
    back = pd.read_csv(page.parent / "findings.csv")
    assert back["pictures"].tolist() == made.findings["pictures"].tolist()


def test_the_same_folder_gives_the_same_audit(clean, heads, tmp_path):
    put(clean / "Testing/no_tumor/copy.jpg", heads[2])
    one, two = (audit(clean).record(tmp_path / name) for name in "ab")
    assert [a.read_bytes() for a in one] == [b.read_bytes() for b in two]


def test_what_is_rejected(clean, tmp_path):
    with raises(ErrorCode.FILE_NOT_FOUND, tmp_path / "nowhere"):
        audit(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with raises(ErrorCode.DATA_MISSING, tmp_path / "empty"):
        audit(tmp_path / "empty")
    with raises(ErrorCode.ARGUMENT_INVALID, clean):
        audit(clean, clean)
    with raises(ErrorCode.ARGUMENT_INVALID, "fold", "split, role or source"):
        audit(clean).across("fold")


def test_two_folders_of_one_name_are_two_sets(clean, tmp_path):
    shutil.copytree(clean, tmp_path / "elsewhere" / "mri")
    found = numbers(audit(clean, tmp_path / "elsewhere" / "mri"))
    assert [
        count
        for name, count in found.items()
        if name.startswith("pictures of ") and "copy one of" in name
    ] == [16, 16]


def test_the_command_line(clean, heads, tmp_path, capsys):
    put(clean / "Testing/glioma/copy.png", heads[0])
    assert main(["audit", str(clean), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert (
        "pictures in Testing with a copy in Training" in printed
        and (tmp_path / "report/audit.html").is_file()
    )
    (clean / "Training/glioma/x.png").write_bytes(b"no picture")
    assert main(["audit", str(clean)]) == 1 and "x.png" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "nowhere")]) == 2 and "nowhere" in capsys.readouterr().err
    assert main(["audit", str(clean), "--sure", "1.5"]) == 2
    assert main(["audit"]) == 2


def test_the_package_exports_the_function():
    assert brain_tumor.audit is audit

"""figshare's own files, written here in their format: read, transposed, rejected when damaged."""

import sys

import numpy as np
from errors import raises
from pictures import SMALL, mat_set

from brain_tumor.data.datasets import index_folder, read_pixels
from brain_tumor.data.figshare import mat_files, read_author_folds, read_mat, write_mat
from brain_tumor.io.errors import ErrorCode


def test_mat_files_bring_patient_fold_and_spacing(tmp_path):
    import h5py

    mat_set(tmp_path / "brainTumorDataPublic_1-766")
    with h5py.File(tmp_path / "cvind.mat", "w") as file:
        file["cvind"] = np.array([[1, 1, 2, 2, 5, 5, 3]], np.float64)
    table, left_out = index_folder(tmp_path)
    assert left_out.empty and table["patient"].tolist() == table["group"].tolist() == [
        "A1",
        "A1",
        "B2",
        "B2",
        "Ü3",
        "Ü3",
    ]
    assert (
        table["fold"].tolist() == [1, 1, 2, 2, 5, 5]
        and table["class"].tolist() == ["meningioma", "pituitary", "glioma"] * 2
    )
    assert (
        table["spacing_mm"].eq(round(0.49 * 512 / 48, 6)).all()
        and table["mask"].tolist() == table["path"].tolist()
    )


def test_mat_arrays_are_transposed_back(tmp_path):
    import h5py

    write_mat(tmp_path / "1.mat", SMALL.astype(int) * 3, SMALL > 99, "glioma", "7")
    with h5py.File(tmp_path / "1.mat") as file:  # as MATLAB writes them: columns first
        assert (
            file["cjdata/image"].shape == (40, 48)
            and file["cjdata/label"][0, 0] == 2
            and file["cjdata/PID"].dtype == np.uint16
        )
    found = read_mat(tmp_path / "1.mat")
    assert (
        (found.image == SMALL.astype(int) * 3).all()
        and (found.mask == (SMALL > 99)).all()
        and (found.tumor, found.patient) == ("glioma", "7")
    )
    seen = read_pixels(tmp_path / "1.mat")
    assert (
        seen.dtype == np.float32
        and seen.max() == 1
        and np.allclose(seen, SMALL / SMALL.max(), atol=1e-6)
    )


def test_mat_files_are_counted_as_numbers(tmp_path):
    mat_set(tmp_path, [f"P{n}" for n in range(12)])
    assert index_folder(tmp_path)[0]["image"].tolist() == [f"{n}.mat" for n in range(1, 13)]


def test_broken_mat_files_are_listed_and_a_broken_list_of_folds_is_rejected(tmp_path):
    import h5py

    mat_set(tmp_path)
    (tmp_path / "7.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with h5py.File(tmp_path / "8.mat", "w") as file:
        file["other"] = 1
    with h5py.File(tmp_path / "9.mat", "w") as file:
        for name, values in (
            ("label", [[4]]),
            ("PID", [[65]]),
            ("image", SMALL),
            ("tumorMask", SMALL),
        ):
            file[f"cjdata/{name}"] = values
    with h5py.File(tmp_path / "10.mat", "w") as file:
        for name, values in (
            ("label", [[1]]),
            ("PID", [[65]]),
            ("image", SMALL),
            ("tumorMask", SMALL[:9]),
        ):
            file[f"cjdata/{name}"] = values
    table, left_out = index_folder(tmp_path)
    assert len(table) == 6 and [path.split("/")[-1] for path in left_out["path"]] == [
        "7.mat",
        "8.mat",
        "9.mat",
        "10.mat",
    ]
    assert "(40, 48)" in left_out["reason"][3] and "(40, 9)" in left_out["reason"][3]
    (tmp_path / "cvind.mat").write_bytes(b"nothing")
    with raises(ErrorCode.FILE_UNREADABLE, "cvind.mat"):
        index_folder(tmp_path)
    with raises(ErrorCode.FILE_UNREADABLE, "7.mat"):
        read_author_folds(tmp_path / "7.mat")


def test_the_four_folders_of_the_archives_are_one_set(tmp_path):
    for first, name in ((1, "brainTumorDataPublic_1-766"), (3, "brainTumorDataPublic_767-1532")):
        for number in (first, first + 1):
            write_mat(
                tmp_path / "set" / name / f"{number}.mat", SMALL, SMALL > 99, "glioma", str(number)
            )
    (tmp_path / "set" / "cvind.mat").write_bytes(b"")
    assert [path.name for path in mat_files(tmp_path / "set")] == [
        "1.mat",
        "2.mat",
        "3.mat",
        "4.mat",
    ]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    write_mat(tmp_path / "1.mat", SMALL, SMALL > 0, "glioma", "1")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with raises(ErrorCode.DEPENDENCY_MISSING, "h5py", "brain_tumor[workbook]"):
        read_mat(tmp_path / "1.mat")

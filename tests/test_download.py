"""Downloading the public datasets, with a stand-in for Kaggle: consent, completeness, checksums."""

import builtins
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from errors import raises
from pictures import class_folders

import brain_tumor.data.download as download
from brain_tumor.cli import main
from brain_tumor.data.datasets import index_folder
from brain_tumor.data.download import (
    RECORD_NAME,
    describe_offer,
    download_set,
    set_checksum,
    verify_download,
)
from brain_tumor.io import files
from brain_tumor.io.errors import ErrorCode


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

    monkeypatch.setitem(
        sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download)
    )
    return state


def named(name, *values, **attributes):
    error = type(name, (Exception,), {})(*values)
    vars(error).update(attributes)
    return error


def test_no_means_nothing_is_fetched(kaggle, tmp_path):
    asked = []
    assert (
        download_set(
            "classification", tmp_path / "new", confirm=lambda text: asked.append(text) or False
        )
        is None
    )
    assert (
        kaggle.calls == []
        and not (tmp_path / "new").exists()
        and asked == [describe_offer("classification", tmp_path / "new")]
    )
    assert all(
        word in asked[0]
        for word in ("7,023", "150 MB", "CC0", "edition 1", "DSV/2645886", str(tmp_path / "new"))
    )


def test_yes_fetches_the_pinned_edition_once_with_checksums(kaggle, tmp_path):
    place = download_set("classification", tmp_path / "deep" / "new", confirm=True)
    assert kaggle.calls == ["masoudnickparvar/brain-tumor-mri-dataset/versions/1"]
    record = json.loads((place / RECORD_NAME).read_text(encoding="utf-8"))
    assert (
        record["edition"] == 1
        and len(record["files"]) == 24
        and record["fingerprint"] == set_checksum(record["files"])
    )
    assert verify_download(place) == [] and len(index_folder(place)[0]) == 24
    assert (
        download_set("classification", place, confirm=lambda text: pytest.fail("asked again"))
        == place
        and len(kaggle.calls) == 1
    )
    assert sorted(p.name for p in place.parent.iterdir()) == ["new"]


def test_the_fingerprint_is_of_names_and_contents():
    import hashlib

    sums = {"b": "2", "a": "1"}
    assert (
        set_checksum(sums)
        == hashlib.sha256(b"1  a\n2  b\n").hexdigest()
        == set_checksum({"a": "1", "b": "2"})
        != set_checksum({"a": "2", "b": "1"})
    )


def test_changed_files_are_named(kaggle, tmp_path):
    place = download_set("classification", tmp_path / "new", confirm=True)
    (place / "Training" / "glioma" / "0.png").write_bytes(b"x")
    (place / "Testing" / "notumor" / "1.png").unlink()
    assert verify_download(place) == ["Testing/notumor/1.png", "Training/glioma/0.png"]
    with raises(ErrorCode.DOWNLOAD_FAILED, place, ": 2 files", "Testing/notumor/1.png"):
        download_set("classification", place, confirm=True)
    (place / RECORD_NAME).write_text("{")
    with raises(ErrorCode.FILE_UNREADABLE, "download.json"):
        verify_download(place)


@pytest.mark.parametrize(
    "error, remedy",
    [
        (ConnectionError("no route"), ["(ConnectionError)"]),
        (TimeoutError(), ["(TimeoutError)"]),
        (named("CredentialError", "?"), ["KAGGLE_API_TOKEN"]),
        (
            named("KaggleApiHTTPError", "?", response=SimpleNamespace(status_code=403)),
            ["KAGGLE_API_TOKEN"],
        ),
        (
            named("KaggleApiHTTPError", "?", response=SimpleNamespace(status_code=404)),
            ["brain_tumor data index"],
        ),
        (named("DataCorruptionError", "?"), ["damaged"]),
        (OSError(28, "No space left on device"), ["KAGGLEHUB_CACHE"]),
        (ValueError("odd"), ["ValueError: odd"]),
    ],
)
def test_each_failure_has_its_remedy_and_leaves_nothing(kaggle, tmp_path, error, remedy):
    kaggle.raises = [error]
    with raises(ErrorCode.DOWNLOAD_FAILED, "masoudnickparvar/brain-tumor-mri-dataset: ", *remedy):
        download_set("classification", tmp_path / "new", confirm=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]
    assert download_set("classification", tmp_path / "new", confirm=True) and len(kaggle.calls) == 2


def test_interrupted_while_downloading(kaggle, tmp_path):
    kaggle.raises = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        download_set("classification", tmp_path / "new", confirm=True)
    assert not (tmp_path / "new").exists()
    assert verify_download(download_set("classification", tmp_path / "new", confirm=True)) == []


def test_interrupted_while_copying_goes_on_where_it_stopped(kaggle, tmp_path, monkeypatch):
    real, written = files.write_whole, []

    def impatient(path):
        written.append(path.name)
        if len(written) == 11:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(files, "write_whole", impatient)
    with pytest.raises(KeyboardInterrupt):
        download_set("classification", tmp_path / "new", confirm=True)
    assert (
        not (tmp_path / "new").exists()
        and len([p for p in (tmp_path / ".new.part").rglob("*") if p.is_file()]) == 10
    )
    place = download_set("classification", tmp_path / "new", confirm=True)
    assert (
        len(written) == 11 + 14 + 1 and verify_download(place) == []
    )  # the fourteen that were missing, and the record
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "new"]


def test_what_lies_half_done_is_checked_and_what_does_not_belong_goes(kaggle, tmp_path):
    part = tmp_path / ".new.part"
    good, bad = part / "Testing" / "glioma" / "0.png", part / "Testing" / "glioma" / "1.png"
    good.parent.mkdir(parents=True)
    whole = {
        path.name: path.read_bytes() for path in (kaggle.cache / "Testing" / "glioma").iterdir()
    }
    good.write_bytes(whole["0.png"])
    bad.write_bytes(b"x" * len(whole["1.png"]))  # its length is right
    (part / "Testing" / "glioma" / "of another edition.png").write_bytes(b"x")
    place = download_set("classification", tmp_path / "new", confirm=True)
    assert (
        verify_download(place) == []
        and (place / "Testing" / "glioma" / "1.png").read_bytes() == whole["1.png"]
    )
    assert sorted(p.name for p in (place / "Testing" / "glioma").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
    ]


def test_progress_is_shown_while_copying(kaggle, tmp_path, capsys):
    download_set("classification", tmp_path / "new", confirm=True)
    assert "copying" in (shown := capsys.readouterr().err) and "24/24" in shown


def test_a_missing_kagglehub_names_the_extra_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with raises(ErrorCode.DEPENDENCY_MISSING, "kagglehub", "brain_tumor[workbook]"):
        download_set("segmentation", tmp_path / "new", confirm=True)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_taken_or_too_small_is_refused_before_asking(
    kaggle, tmp_path, monkeypatch
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    asked = lambda text: pytest.fail("asked")
    with raises(ErrorCode.FILE_EXISTS, tmp_path / "taken"):
        download_set("classification", tmp_path / "taken", confirm=asked)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**8))
    with raises(ErrorCode.WRITE_FAILED, "100 MB", "300 MB"):
        download_set("classification", tmp_path / "new", confirm=asked)
    with raises(ErrorCode.SELECTION_INVALID, "brats", "classification and segmentation"):
        download_set("brats", confirm=asked)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine" and kaggle.calls == []


# ---- the command line


def run(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_index_is_0_1_or_2(capsys, tmp_path):
    class_folders(tmp_path / "mri")
    status, out, err = run(
        capsys, "data", "index", tmp_path / "mri", "--csv", tmp_path / "t" / "table.csv"
    )
    assert (
        status == 0
        and "mri  glioma  Training  3 pictures" in out
        and "none of the published sets" in out
    )
    assert len(pd.read_csv(tmp_path / "t" / "table.csv")) == 24
    (tmp_path / "mri" / "Training" / "glioma" / "脳.jpg").write_bytes(b"x")
    status, out, err = run(capsys, "data", "index", tmp_path / "mri")
    assert status == 1 and "left out: " in err and "脳.jpg" in err
    status, out, err = run(capsys, "data", "index", tmp_path / "gone")
    assert status == 2 and "gone" in err and out == ""


def test_get_is_0_1_or_2(capsys, kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda prompt: "n")
    status, out, err = run(capsys, "data", "get", "classification", "--to", tmp_path / "new")
    assert (
        status == 1
        and "Licence: CC0" in out
        and "Nothing was downloaded" in out
        and kaggle.calls == []
    )

    def nobody(prompt):
        raise EOFError

    monkeypatch.setattr(builtins, "input", nobody)
    status, out, err = run(capsys, "data", "get", "classification", "--to", tmp_path / "new")
    assert status == 2 and "--yes" in err and kaggle.calls == []
    status, out, err = run(
        capsys, "data", "get", "classification", "--to", tmp_path / "new", "--yes"
    )
    assert (
        status == 0
        and out.index("about 150 MB") < out.index("none of the published sets")
        and len(kaggle.calls) == 1
    )
    kaggle.raises = [ConnectionError()]
    status, out, err = run(
        capsys, "data", "get", "segmentation", "--to", tmp_path / "other", "--yes"
    )
    assert status == 2 and "ConnectionError" in err


def test_get_stopped_by_ctrl_c_is_130(capsys, kaggle, tmp_path):
    kaggle.raises = [KeyboardInterrupt()]
    assert run(capsys, "data", "get", "classification", "--to", tmp_path / "new", "--yes")[0] == 130


@pytest.mark.parametrize(
    "words",
    [["data"], ["data", "get"], ["data", "get", "brats"], ["data", "index"], ["data", "fly"]],
)
def test_wrong_use_is_2(capsys, words):
    status, out, err = run(capsys, *words)
    assert status == 2 and "usage:" in err

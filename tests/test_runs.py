"""Recorded runs: reading, writing, rejected input, and the thesis' own logs."""

import json

import numpy as np
import pandas as pd
import pytest
from errors import raises

from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import RUNS
from brain_tumor.io.pages import figure_pixels
from brain_tumor.io.scan import CLASSES
from brain_tumor.training.runs import (
    LOG_COLUMNS,
    PREDICTION_COLUMNS,
    PROBABILITY_COLUMNS,
    THESIS_LOGS,
    epoch_table,
    find_runs,
    infer_image_count,
    load_run,
    read_log,
    read_predictions,
    thesis_log,
    write_example_run,
    write_predictions,
)

pytest.importorskip("matplotlib")


@pytest.fixture
def folder(tmp_path):
    return write_example_run(tmp_path / "example", patients=16)


def rejected(action, code, *parts):
    with raises(code, *parts):
        action()


def test_a_run_comes_back_as_it_was_written(folder):
    run = load_run(folder)
    assert (run.name, run.chosen, run.second, run.epochs) == ("example", 7, 5, 8)
    assert (
        tuple(run.predictions) == PREDICTION_COLUMNS
        and len(run.predictions) == 48
        and run.provenance.startswith("made up")
    )
    assert set(zip(run.predictions["role"], run.predictions["class"])) == {
        (role, name) for role in ("validation", "test") for name in CLASSES
    }
    assert np.allclose(run.predictions[list(PROBABILITY_COLUMNS)].sum(axis=1), 1, atol=3e-5)


def test_a_group_stands_on_one_side_and_has_one_class(folder):
    by = load_run(folder).predictions.groupby("group")
    assert by["role"].nunique().max() == by["class"].nunique().max() == 1 and (by.size() == 3).all()


def test_the_same_example_is_written_twice(folder, tmp_path):
    again = write_example_run(tmp_path / "again" / "example", patients=16)
    for name in ("run.json", "history.csv", "predictions.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("lost", ["val_loss", "accuracy", "learning_rate"])
def test_a_log_with_a_missing_column_is_rejected_by_name(folder, lost):
    pd.read_csv(folder / "history.csv").drop(columns=lost).to_csv(
        folder / "history.csv", index=False
    )
    rejected(lambda: load_run(folder), ErrorCode.RUN_INVALID, "history.csv", lost)


def test_logs_that_are_damaged_are_rejected(folder):
    whole = (folder / "history.csv").read_text()
    for text, code, part in (
        (whole.splitlines()[0] + "\n", ErrorCode.RUN_INVALID, ""),
        ("", ErrorCode.FILE_UNREADABLE, ""),
        (whole.replace("\n3,", "\n2,"), ErrorCode.RUN_INVALID, "1, 2, 2"),
        (whole.replace("0.001", "oops", 1), ErrorCode.RUN_INVALID, "learning_rate"),
        (
            "\n".join(whole.splitlines()[:1] + whole.splitlines()[2:]),
            ErrorCode.RUN_INVALID,
            "2, 3",
        ),
    ):
        (folder / "history.csv").write_text(text)
        rejected(lambda: load_run(folder), code, "history.csv", part)
    (folder / "history.csv").unlink()
    rejected(lambda: load_run(folder), ErrorCode.FILE_NOT_FOUND, "history.csv")


@pytest.mark.parametrize(
    "content, code, part",
    [
        ("{", ErrorCode.FILE_UNREADABLE, ""),
        ("[1, 2]", ErrorCode.RUN_INVALID, "network"),
        ('{"network": "xception"}', ErrorCode.RUN_INVALID, "title, task, protocol, provenance"),
        ("\xff\xfe", ErrorCode.FILE_UNREADABLE, ""),
    ],
)
def test_a_damaged_run_json_is_named(folder, content, code, part):
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    rejected(lambda: load_run(folder), code, "run.json", part)


def test_missing_things_are_named(folder, tmp_path):
    rejected(lambda: load_run(tmp_path / "nothing"), ErrorCode.FILE_NOT_FOUND, "nothing")
    (folder / "run.json").unlink()
    rejected(lambda: load_run(folder), ErrorCode.FILE_NOT_FOUND, "run.json")


def test_an_epoch_that_was_never_run_cannot_have_been_kept(folder):
    settings = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(settings | {"chosen_epoch": 9}))
    rejected(lambda: load_run(folder), ErrorCode.RUN_INVALID, 9)
    (folder / "run.json").write_text(json.dumps(settings | {"chosen_epoch": None}))
    assert load_run(folder).chosen == 7, "of the lowest validation loss"


def test_a_run_on_its_way_has_no_predictions_yet(folder):
    (folder / "predictions.csv").unlink()
    run = load_run(folder)
    assert run.predictions is None and figure_pixels(run.curves()).ndim == 3
    rejected(lambda: run.only(role="test"), ErrorCode.DATA_MISSING, "predictions.csv")
    settings = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(settings | {"finished": False}))
    assert find_runs(folder.parent) == []
    (folder / "history.csv").unlink()
    rejected(lambda: load_run(folder), ErrorCode.RUN_INVALID, "--resume")


def test_a_stack_may_come_without_a_log(folder):
    settings = json.loads((folder / "run.json").read_text()) | {
        "network": "stacking",
        "chosen_epoch": None,
    }
    (folder / "run.json").write_text(json.dumps(settings))
    pd.read_csv(folder / "history.csv")[["epoch", "accuracy", "loss"]].to_csv(
        folder / "history.csv", index=False
    )
    assert load_run(folder).chosen is None and load_run(folder).epochs == 8
    (folder / "history.csv").unlink()
    run = load_run(folder)
    assert run.epochs == 0 and len(run.predictions) and "<img" not in run._repr_html_()
    rejected(run.curves, ErrorCode.RUN_INVALID)


def test_predictions_in_another_order_are_rejected_both_ways(folder):
    path = folder / "predictions.csv"
    whole = pd.read_csv(path)
    whole[[*PREDICTION_COLUMNS[:8], *reversed(PROBABILITY_COLUMNS)]].to_csv(path, index=False)
    rejected(lambda: load_run(folder), ErrorCode.DATA_INVALID, "p_pituitary, p_no_tumor")
    whole.assign(p_glioma=whole["p_pituitary"], p_pituitary=whole["p_glioma"]).to_csv(
        path, index=False
    )
    rejected(lambda: load_run(folder), ErrorCode.DATA_INVALID, "predicted")


def test_probabilities_that_are_none_are_rejected(folder):
    path = folder / "predictions.csv"
    whole = pd.read_csv(path)
    for changes, code, part in (
        ({"p_glioma": whole["p_glioma"] + 0.01}, ErrorCode.DATA_INVALID, "0.png"),
        ({"p_glioma": whole["p_glioma"] - 2}, ErrorCode.DATA_INVALID, "0.png"),
        ({"p_glioma": np.nan}, ErrorCode.RUN_INVALID, "p_glioma"),
        ({"p_glioma": "?"}, ErrorCode.RUN_INVALID, "p_glioma"),
        ({"class": "astrocytoma"}, ErrorCode.LABEL_UNKNOWN, "astrocytoma"),
        ({"predicted": "tumour"}, ErrorCode.LABEL_UNKNOWN, "tumour"),
        ({"disputed": "perhaps"}, ErrorCode.DATA_INVALID, "perhaps"),
        ({"image": "same.png"}, ErrorCode.DATA_INVALID, "same.png"),
    ):
        whole.assign(**changes).to_csv(path, index=False)
        rejected(lambda: read_predictions(path), code, "predictions.csv", part)
    whole.drop(columns="group").to_csv(path, index=False)
    rejected(lambda: read_predictions(path), ErrorCode.RUN_INVALID, "group")


def pictures(n=4, **more):
    return pd.DataFrame(
        {
            "source": "kaggle",
            "image": [f"{i}.png" for i in range(n)],
            "class": [CLASSES[i % 4] for i in range(n)],
            "group": "NA",
            "role": "test",
            "disputed": False,
        }
        | more
    )


def test_predictions_are_written_with_five_decimals_and_words_stay_words(tmp_path):
    p = np.random.default_rng(0).dirichlet(np.ones(4), 4)
    back = read_predictions(write_predictions(pictures(), p, tmp_path / "deep" / "predictions.csv"))
    assert (
        np.array_equal(back[list(PROBABILITY_COLUMNS)], p.round(5))
        and (back["predicted"] == np.array(CLASSES)[p.argmax(1)]).all()
    )
    assert (
        back["group"].tolist() == ["NA"] * 4
        and back["set"].tolist() == ["kaggle"] * 4
        and back["disputed"].dtype == bool
    )
    back = read_predictions(
        write_predictions(pictures(set="healthy", disputed=True), p, tmp_path / "again.csv")
    )
    assert set(back["set"]) == {"healthy"} and back["disputed"].all()


def test_nothing_is_written_where_something_is_wrong(tmp_path):
    path, p = tmp_path / "predictions.csv", np.full((4, 4), 0.25)
    path.write_text("before")
    for table, given, code, part in [
        (pictures(), p[:3], ErrorCode.DATA_INVALID, "(3, 4)"),
        (pictures(), p[:, :3], ErrorCode.DATA_INVALID, "(4, 3)"),
        (pictures().drop(columns="group"), p, ErrorCode.DATA_MISSING, "group"),
        (pictures().drop(columns="source"), p, ErrorCode.DATA_MISSING, "source"),
        (pictures(), 2 * p, ErrorCode.DATA_INVALID, "0.png"),
        (pictures(image="same"), p, ErrorCode.DATA_INVALID, "same"),
        (pictures(**{"class": "cyst"}), p, ErrorCode.LABEL_UNKNOWN, "cyst"),
    ]:
        action = lambda: write_predictions(table, given, path)
        rejected(action, code, "predictions.csv", part)
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == [
        "predictions.csv"
    ]


def test_a_tie_is_accepted(tmp_path):
    p = np.array([[0.4999951, 0.4999949, 0.00001, 0.0]])
    assert (
        read_predictions(write_predictions(pictures(1), p, tmp_path / "p.csv"))["predicted"][0]
        == "glioma"
    )


def test_only_keeps_what_is_asked_for_and_says_so(folder):
    run = load_run(folder)
    part = run.only(role="test").only(**{"class": ("glioma", "pituitary")})
    assert set(part.predictions["class"]) == {"glioma", "pituitary"} and part.provenance.endswith(
        "test, glioma or pituitary: 12 pictures of 4 groups"
    )
    assert len(run.predictions) == 48 and run.provenance == run.settings["provenance"]
    rejected(lambda: run.only(side="test"), ErrorCode.SELECTION_INVALID, "side", "role")
    rejected(lambda: run.only(set="healthy"), ErrorCode.SELECTION_INVALID, "healthy", "kaggle")


def test_curves_carry_the_mark_the_phase_and_the_kept_epoch(folder):
    figure = load_run(folder).curves()
    assert figure.get_supxlabel() == "made up, no scan behind it (protocol honest)"
    for axis, what in zip(figure.axes, ("accuracy", "loss")):
        lines = {line.get_label(): line for line in axis.get_lines()}
        assert (
            set(lines) == {"train", "validation", "phase 2 begins", "kept: epoch 7"}
            and axis.get_ylabel() == what
        )
        assert (lines["train"].get_linestyle(), lines["validation"].get_linestyle()) == ("-", "--")
        assert {line.get_color() for line in axis.get_lines()} <= {"k", "0.4"}, "black and white"
        assert (
            lines["phase 2 begins"].get_xdata()[0] == 4.5
            and lines["kept: epoch 7"].get_xdata()[0] == 7
        )
    assert figure._repr_png_() == load_run(folder).curves()._repr_png_(), "same run, same bytes"


def test_the_html_is_escaped_and_tells_what_it_shows(folder):
    settings = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(
        json.dumps(settings | {"provenance": "<script>", "title": '"x"'})
    )
    html = load_run(folder)._repr_html_()
    assert (
        "<script>" not in html
        and "&lt;script&gt;" in html
        and 'alt="Accuracy and loss of &#34;x&#34;' in html
    )


def test_runs_are_found_by_their_task(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"task": "segmentation"}')
    assert [run.name for run in find_runs(tmp_path)] == ["example"] and find_runs(
        tmp_path / "nowhere"
    ) == []
    (tmp_path / "other" / "run.json").write_text("{")
    rejected(lambda: find_runs(tmp_path), ErrorCode.FILE_UNREADABLE, "other")


def test_recorded_runs_can_be_opened():
    for run in find_runs():
        assert run.provenance and (run.chosen is None or 1 <= run.chosen <= run.epochs)
        assert run.predictions is None or set(run.predictions["role"]) <= {"validation", "test"}


# ---- the thesis' logs


@pytest.mark.parametrize("name", THESIS_LOGS)
def test_every_log_of_the_thesis_is_read_and_drawn(name):
    run = thesis_log(name)
    assert (
        run.settings["network"] == name
        and "figure 3." in run.provenance
        and run.predictions is None
    )
    assert len(run.curves().axes) == (3 if run.settings["task"] == "segmentation" else 2)


def test_logs_that_there_are_not(tmp_path):
    rejected(lambda: thesis_log("densenet"), ErrorCode.SELECTION_INVALID, "densenet", "vgg19")
    rejected(lambda: thesis_log("vgg19", tmp_path), ErrorCode.FILE_NOT_FOUND, "vgg19.csv")


def test_which_epochs_the_thesis_kept():
    table = epoch_table(
        [thesis_log(name) for name in ("xception", "inception_v3", "resnet50", "vgg19")]
    ).set_index("network")
    assert table["kept"].tolist() == [13, 18, 20, 18] and table["of"].tolist() == [18, 20, 20, 20]
    assert table["best_epoch"]["ResNet-50"] == 19 and table["gained"].idxmin() == "VGG-19"
    for name, run in (("Xception", thesis_log("xception")), ("VGG-19", thesis_log("vgg19"))):
        assert table["val_loss"][name] == run.history["val_loss"].min()


def test_shares_tell_how_many_pictures_there_were():
    for n in (7, 653, 1307, 8000):
        assert infer_image_count(np.float32(np.random.default_rng(n).integers(0, n, 12) / n)) == n
    assert infer_image_count([0.5, 0.25]) == 4 and infer_image_count([1.0]) == 1
    rejected(lambda: infer_image_count(np.sqrt([0.2, 0.3, 0.5])), ErrorCode.DATA_INVALID)


def test_logs_have_the_columns_of_the_thesis(root):
    for name in ("xception", "inception_v3", "resnet50", "vgg19"):
        assert tuple(read_log(root / "runs" / "thesis" / f"{name}.csv")) == LOG_COLUMNS
    assert RUNS == root / "runs"


@pytest.mark.parametrize("phase", [1, 2])
def test_a_run_of_one_phase_has_no_second(tmp_path, phase):
    folder = write_example_run(tmp_path / "one")
    history = pd.read_csv(folder / "history.csv").assign(phase=phase)
    history.to_csv(folder / "history.csv", index=False)
    run = load_run(folder)
    row = epoch_table([run]).iloc[0]
    assert run.second is None and row["first_phase"] == row["val_accuracy"] and row["gained"] == 0
    assert run.curves() is not None

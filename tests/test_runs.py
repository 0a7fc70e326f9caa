"""Recorded runs: what is read, what is written, what is refused, and what the thesis' own logs say."""

import json

import numpy as np
import pandas as pd
import pytest

from brain_tumor.io.errors import BrainTumorError
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


def refused(action, *words):
    with pytest.raises(BrainTumorError) as caught:
        action()
    for word in words:
        assert word in str(caught.value), str(caught.value)


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
def test_a_log_with_a_missing_column_is_refused_by_name(folder, lost):
    pd.read_csv(folder / "history.csv").drop(columns=lost).to_csv(
        folder / "history.csv", index=False
    )
    refused(lambda: load_run(folder), "history.csv", f"no column {lost};")


def test_logs_that_are_damaged_are_refused(folder):
    whole = (folder / "history.csv").read_text()
    for text, word in {
        whole.splitlines()[0] + "\n": "no line",
        "": "not a table",
        whole.replace("\n3,", "\n2,"): "epochs 1, 2, 2",
        whole.replace("0.001", "oops", 1): "learning_rate",
        "\n".join(whole.splitlines()[:1] + whole.splitlines()[2:]): "epochs 2, 3",
    }.items():
        (folder / "history.csv").write_text(text)
        refused(lambda: load_run(folder), "history.csv", word)
    (folder / "history.csv").unlink()
    refused(lambda: load_run(folder), "no such file")


@pytest.mark.parametrize(
    "content, word",
    [
        ("{", "damaged"),
        ("[1, 2]", "does not say"),
        ('{"network": "xception"}', "title, task, protocol, mark"),
        ("\xff\xfe", "damaged"),
    ],
)
def test_a_damaged_run_json_is_named(folder, content, word):
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    refused(lambda: load_run(folder), "run.json", word)


def test_missing_things_are_named(folder, tmp_path):
    refused(lambda: load_run(tmp_path / "nothing"), "nothing", "no such folder")
    (folder / "run.json").unlink()
    refused(lambda: load_run(folder), "run.json is missing")


def test_an_epoch_that_was_never_run_cannot_have_been_kept(folder):
    said = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(said | {"chosen_epoch": 9}))
    refused(lambda: load_run(folder), "epoch 9")
    (folder / "run.json").write_text(json.dumps(said | {"chosen_epoch": None}))
    assert load_run(folder).chosen == 7, "of the lowest validation loss"


def test_a_run_on_its_way_has_no_predictions_yet(folder):
    (folder / "predictions.csv").unlink()
    run = load_run(folder)
    assert run.predictions is None and figure_pixels(run.curves()).ndim == 3
    refused(lambda: run.only(role="test"), "no predictions.csv")
    said = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(said | {"finished": False}))
    assert find_runs(folder.parent) == []
    (folder / "history.csv").unlink()
    refused(lambda: load_run(folder), "not finished", "--resume")


def test_a_stack_may_come_without_a_log(folder):
    said = json.loads((folder / "run.json").read_text()) | {
        "network": "stacking",
        "chosen_epoch": None,
    }
    (folder / "run.json").write_text(json.dumps(said))
    pd.read_csv(folder / "history.csv")[["epoch", "accuracy", "loss"]].to_csv(
        folder / "history.csv", index=False
    )
    assert load_run(folder).chosen is None and load_run(folder).epochs == 8
    (folder / "history.csv").unlink()
    run = load_run(folder)
    assert run.epochs == 0 and len(run.predictions) and "<img" not in run._repr_html_()
    refused(run.curves, "no epochs")


def test_predictions_in_another_order_are_refused_both_ways(folder):
    path = folder / "predictions.csv"
    whole = pd.read_csv(path)
    whole[[*PREDICTION_COLUMNS[:8], *reversed(PROBABILITY_COLUMNS)]].to_csv(path, index=False)
    refused(lambda: load_run(folder), "order", "p_pituitary, p_no_tumor")
    whole.assign(p_glioma=whole["p_pituitary"], p_pituitary=whole["p_glioma"]).to_csv(
        path, index=False
    )
    refused(lambda: load_run(folder), "another order", "not the likeliest")


def test_probabilities_that_are_none_are_refused(folder):
    path = folder / "predictions.csv"
    whole = pd.read_csv(path)
    for changes, word in (
        ({"p_glioma": whole["p_glioma"] + 0.01}, "sum to 1"),
        ({"p_glioma": whole["p_glioma"] - 2}, "sum to 1"),
        ({"p_glioma": np.nan}, "p_glioma"),
        ({"p_glioma": "?"}, "p_glioma"),
        ({"class": "astrocytoma"}, "astrocytoma"),
        ({"predicted": "tumour"}, "tumour"),
        ({"disputed": "perhaps"}, "perhaps"),
        ({"image": "same.png"}, "twice"),
    ):
        whole.assign(**changes).to_csv(path, index=False)
        refused(lambda: read_predictions(path), "predictions.csv", word)
    whole.drop(columns="group").to_csv(path, index=False)
    refused(lambda: read_predictions(path), "no column group")


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
    for table, said, word in [
        (pictures(), p[:3], "(3, 4)"),
        (pictures(), p[:, :3], "(4, 3)"),
        (pictures().drop(columns="group"), p, "group"),
        (pictures().drop(columns="source"), p, "source"),
        (pictures(), 2 * p, "sum to 1"),
        (pictures(image="same"), p, "twice"),
        (pictures(**{"class": "cyst"}), p, "cyst"),
    ]:
        refused(lambda: write_predictions(table, said, path), "predictions.csv", word)
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == [
        "predictions.csv"
    ]


def test_a_tie_is_nobodys_fault(tmp_path):
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
    refused(lambda: run.only(side="test"), "side", "role")
    refused(lambda: run.only(set="healthy"), "healthy", "sets kaggle")


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
    said = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(said | {"provenance": "<script>", "title": '"x"'}))
    html = load_run(folder)._repr_html_()
    assert (
        "<script>" not in html
        and "&lt;script&gt;" in html
        and 'alt="Accuracy and loss of &quot;x&quot;' in html
    )


def test_runs_are_found_by_their_task(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"task": "segmentation"}')
    assert [run.name for run in find_runs(tmp_path)] == ["example"] and find_runs(
        tmp_path / "nowhere"
    ) == []
    (tmp_path / "other" / "run.json").write_text("{")
    refused(lambda: find_runs(tmp_path), "other", "damaged")


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
    refused(lambda: thesis_log("densenet"), "densenet", "vgg19")
    refused(lambda: thesis_log("vgg19", tmp_path), "vgg19.csv")


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
    refused(lambda: infer_image_count(np.sqrt([0.2, 0.3, 0.5])), "no number")


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

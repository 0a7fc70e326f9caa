"""The guides that are filled in by hand:

Every item once, with a reason, and no figure that is older than its record.
"""

import json
import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parent.parent / "nbs" / "guides"
CHECKLISTS = {"claim": 44, "metrics": 30, "tripod_ai": 52}
MARKS = {"yes", "in part", "no", "n.a."}


def cells(name):
    return json.loads((GUIDES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def rows(name):
    """(number, requirement, mark, place or reason) of every item of a checklist."""
    prose = "\n".join(
        "".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "markdown"
    )
    return re.findall(r"^\| (\d+[a-g]?) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", prose, re.MULTILINE)


def outputs(name):
    """All that the cells of a guide have printed or drawn as a table, without tags."""
    texts = [
        text
        for cell in cells(name)
        for output in cell.get("outputs", [])
        for text in (output.get("text") or output.get("data", {}).get("text/html", []))
    ]
    return re.sub(r"<[^>]+>", " ", "".join(texts))


@pytest.mark.parametrize("name, items", CHECKLISTS.items())
def test_every_item_is_answered_once_and_with_a_reason(name, items):
    items_found = rows(name)
    numbers = [number for number, *_ in items_found]
    assert len(numbers) == len(set(numbers)) == items
    assert numbers == sorted(numbers, key=lambda number: (int(re.match(r"\d+", number)[0]), number))
    assert {mark for _, _, mark, _ in items_found} <= MARKS
    assert all(len(reason.strip()) > 3 for *_, reason in items_found)


@pytest.mark.parametrize("name", CHECKLISTS)
def test_an_external_test_of_what_ships_is_not_claimed(name):
    missing = [requirement for _, requirement, mark, _ in rows(name) if mark == "no"]
    half = [requirement for _, requirement, mark, _ in rows(name) if mark != "yes"]
    assert "external test" in " ".join(half) or name == "tripod_ai"
    assert len(missing) >= 3


@pytest.mark.parametrize("name", CHECKLISTS)
def test_the_count_at_the_end_is_that_of_the_tables(name):
    marks = [mark for _, _, mark, _ in rows(name)]
    if name == "metrics":
        assert (
            f"{marks.count('yes')} of {len(marks) - marks.count('n.a.')} items that count"
            in outputs(name)
        )
    else:
        for mark in MARKS:
            assert re.search(rf"{re.escape(mark)}\s+{marks.count(mark)}\b", outputs(name)), mark


@pytest.mark.parametrize(
    "name, figures",
    [
        ("claim", ("class accuracy, figshare", "Dice, figshare")),
        ("tripod_ai", ("class accuracy, figshare", "class accuracy, healthy T1")),
    ],
)
def test_figures_are_those_on_record(root, name, figures):
    record = json.loads(
        (root / "brain_tumor" / "models" / "compact" / "results.json").read_text(encoding="utf-8")
    )["figures"]
    shown = outputs(name)
    for row in record:
        if row["figure"] in figures:
            assert all(f"{row[key]:.3f}" in shown for key in ("value", "low", "high")), (
                f"run {name}.ipynb again"
            )


@pytest.mark.parametrize("name", ["tripod_ai", "data_sheet"])
def test_pictures_and_groups_are_those_of_the_split(root, name):
    import pandas as pd

    split, shown = pd.read_csv(root / "runs" / "splits" / "project.csv", comment="#"), outputs(name)
    sides = ["test", "train", "validation"]
    flow = re.findall(
        r"\b(?:glioma|meningioma|pituitary|no_tumor)\s+(\d+)\s+(\d+)\s+(\d+)\s", shown
    )
    assert [sum(map(int, column)) for column in zip(*flow)] == split["side"].value_counts()[
        sides
    ].tolist()
    for source, groups in (
        split.groupby(["source", "side"])["group"].nunique().unstack()[sides].iterrows()
    ):
        assert re.search(rf"\b{source}\s+" + r"\s+".join(map(str, groups)) + r"\b", shown), (
            f"{source}: run {name}.ipynb again"
        )


def test_duplicates_across_the_split_are_reported(root):
    import pandas as pd

    counts = pd.read_csv(root / "runs" / "audit" / "findings.csv").set_index("finding")["pictures"]
    expected = {
        "claim": ("20", "copies"),
        "metrics": ("18", "copies"),
        "tripod_ai": ("16", "copy in training"),
    }
    for name, (item, words) in expected.items():
        ((mark, reason),) = (
            (mark, reason) for number, _, mark, reason in rows(name) if number == item
        )
        assert words in reason and mark != "yes"
    for subset in ("test", "validation"):
        finding = f"pictures in {subset} with a copy in train"
        assert re.search(rf"{finding}\s+{counts[finding]}\b", outputs("claim"))

"""What is counted and drawn before anything is trained."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from pictures import class_folders
from PIL import Image

from brain_tumor.data.datasets import find_manifests, index_folder, read_data_manifest
from brain_tumor.data.overview import (
    PUBLISHED_COUNTS,
    balancing_counts,
    class_sheet,
    count_table,
    explain_counts,
    intensity_histograms,
    record_overview,
    size_counts,
)

# ---- counts


def as_table(edition, **change):
    return pd.DataFrame(
        [
            {"split": split or None, "class": name or None}
            for (split, name), n in edition.items()
            for _ in range(n + change.get(f"{split}_{name}", 0))
        ]
    )


def test_the_editions_add_up():
    assert [sum(edition.values()) for edition in PUBLISHED_COUNTS.values()] == [
        7023,
        7028,
        7200,
        3064,
        3064,
    ]


@pytest.mark.parametrize("name", list(PUBLISHED_COUNTS))
def test_each_edition_is_recognised(name):
    assert explain_counts(as_table(PUBLISHED_COUNTS[name])) == [f"The counts are those of {name}."]


def test_differences_are_explained_not_rejected():
    first = next(iter(PUBLISHED_COUNTS))
    lines = explain_counts(
        as_table(PUBLISHED_COUNTS[first], Training_glioma=-7, Testing_no_tumor=2)
    )
    assert lines[0] == f"Closest to {first}; 7018 pictures are here." and len(lines) == 3
    assert any("Testing no_tumor: 407, published are 405 (+2): added" in line for line in lines)
    assert any("Training glioma: 1314, published are 1321 (-7): a part" in line for line in lines)
    assert (
        "none of the published sets"
        in explain_counts(as_table({("", "glioma"): 40, ("", "no_tumor"): 12}))[0]
    )


def test_balancing_is_the_thesis_arithmetic():
    plan = balancing_counts(
        {"glioma": 1330, "meningioma": 1339, "no_tumor": 1595, "pituitary": 1457}
    )
    assert plan["added"].tolist() == [670, 661, 405, 543] and plan["after"].eq(2000).all()
    assert balancing_counts({"glioma": 12}, target=10).loc["glioma"].tolist() == [12, 0, 12]


# ---- looking


def test_the_recorded_numbers_are_those_of_known_images(tmp_path):
    class_folders(tmp_path / "s", names=("glioma", "notumor"), sides=("",), each=4)
    for number in range(4):
        Image.fromarray(np.tile(np.uint8([0, 0, 0, 255]), (32, 8))).save(
            tmp_path / "s" / "notumor" / f"{number}.png"
        )
    table, _ = index_folder(tmp_path / "s")
    record_overview(table, tmp_path / "out")
    tally, size, light = (
        pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("counts", "sizes", "intensity")
    )
    assert (
        tally["pictures"].tolist() == [4, 4]
        and size["commonest"].tolist() == ["40 x 48", "32 x 32"]
        and size["sizes"].tolist() == [1, 1]
    )
    none = light.set_index("class").loc["no_tumor"]
    assert none["0.00"] == 0.75 and none["0.96"] == 0.25 and none["0.48"] == 0
    pd.testing.assert_frame_equal(
        intensity_histograms(table, limit=2, seed=1), intensity_histograms(table, limit=2, seed=1)
    )


def test_sizes_are_those_published_where_known(tmp_path):
    table = pd.DataFrame(
        {
            "source": "s",
            "class": "glioma",
            "width": [40, 40],
            "height": 48,
            "original_width": [512, None],
            "original_height": [512, None],
        }
    )
    assert size_counts(table).loc[0, ["sizes", "share"]].tolist() == [2, 0.5]


def test_the_sheet_has_a_row_a_class_and_the_seed_decides(tmp_path):
    table, _ = index_folder(class_folders(tmp_path))
    shown = lambda seed: [
        axis.images[0].get_array().sum()
        for axis in class_sheet(table, each=2, seed=seed).axes
        if axis.images
    ]
    assert len(shown(0)) == 8 and shown(0) == shown(0) != shown(1)
    with Image.open(
        BytesIO(class_sheet(table, each=2)._repr_png_())
    ) as seen:  # what a notebook displays
        assert seen.format == "PNG" and seen.size == (168, 364)


# ---- the sets behind this project


def test_the_record_agrees_with_itself_and_with_the_real_sets(root, request):
    tally, size, light = (
        pd.read_csv(root / "runs" / "data" / f"{name}.csv", keep_default_na=False)
        for name in ("counts", "sizes", "intensity")
    )
    by_class = tally.groupby(["source", "class"])["pictures"].sum()
    assert (
        by_class.tolist()
        == size.set_index(["source", "class"]).loc[by_class.index, "pictures"].tolist()
    )
    assert (
        np.allclose(light.iloc[:, 3:].sum(axis=1), 1, atol=1e-3)
        and (light["pictures"] <= 200).all()
    )
    shared = request.getfixturevalue("shared_data")
    table = pd.concat([read_data_manifest(path) for path in find_manifests(shared)])
    pd.testing.assert_frame_equal(count_table(table), tally, check_dtype=False)
    assert table.loc[table["source"] == "figshare", "fold"].between(1, 5).all()

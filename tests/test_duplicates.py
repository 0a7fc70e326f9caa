"""Finding duplicates: every kind, among broken, tiny and odd files, in any order."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from errors import raises

from bench.generated import WAYS, picture, planted_at, spoilt, stream
from brain_tumor.data import duplicates
from brain_tumor.data.duplicates import (
    SURE_CORRELATION,
    THUMBNAIL_SIDE,
    candidate_pairs,
    crop_windows,
    find_duplicates,
    fingerprint_images,
    group_duplicates,
    head_rectangle,
    square_thumbnail,
)
from brain_tumor.io.errors import ErrorCode

KINDS = ("glioma", "meningioma", "no_tumor", "pituitary")


@pytest.fixture(scope="module")
def heads():
    """Twelve different heads."""
    pytest.importorskip("nilearn")
    from brain_tumor.imaging.phantoms import PLANES, phantom

    return [
        phantom(KINDS[n % 4], plane=PLANES[n % 3], seed=500 + n, size=192).pixels for n in range(12)
    ]


@pytest.fixture(scope="module")
def crowd(heads):
    """A hundred and fifty different pictures, generated from the heads."""
    base = np.stack([cv2.resize(one, (128, 128), interpolation=cv2.INTER_AREA) for one in heads])
    return [picture(base, number) for number in range(150)]


def pairs(table):
    return list(zip(table["first"].tolist(), table["second"].tolist()))


# ---- what is found


@pytest.mark.parametrize("way", WAYS)
def test_each_kind_of_copy_is_found_and_nothing_else(heads, way):
    made = [spoilt(one, way, np.random.default_rng(n)) for n, one in enumerate(heads)]
    found = find_duplicates(fingerprint_images(heads), fingerprint_images(made))
    assert pairs(found) == [(n, n) for n in range(12)]
    assert (
        not found["exact"].any()
        and found["mirrored"].all() == (way in ("mirrored", "all")) == found["mirrored"].any()
    )
    assert found["correlation"].between(SURE_CORRELATION, 1).all()


def test_the_same_pixels_are_exact_however_they_were_stored(heads, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), heads[0])
    cv2.imwrite(str(tmp_path / "b.bmp"), heads[0])
    cv2.imwrite(str(tmp_path / "c.webp"), heads[0], [cv2.IMWRITE_WEBP_QUALITY, 60])
    found = find_duplicates(
        fingerprint_images([tmp_path / "a.png", tmp_path / "b.bmp", tmp_path / "c.webp", heads[1]])
    )
    assert found[["first", "second", "exact"]].values.tolist() == [[0, 1, True], [0, 2, False]]
    assert group_duplicates(found, 4).tolist() == [0, 0, 0, 1]


def test_two_sets_find_what_one_cropped_from_the_other_in_either_direction(heads):
    cut = [np.ascontiguousarray(one[15:, :-15]) for one in heads]
    ab, ba = (
        find_duplicates(fingerprint_images(heads), fingerprint_images(cut)),
        find_duplicates(fingerprint_images(cut), fingerprint_images(heads)),
    )
    assert pairs(ab) == pairs(ba) == [(n, n) for n in range(12)]


def test_exact_duplicates_between_sets_inherit_each_others_pairs(heads):
    dark = spoilt(heads[0], "darker", np.random.default_rng(0))
    found = find_duplicates(
        fingerprint_images([heads[0], heads[1], heads[0].copy()]),
        fingerprint_images([dark, heads[0].copy(), dark.copy()]),
    )
    assert pairs(found) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    assert found["exact"].tolist() == [False, True, False, False, True, False]


def test_a_conflict_is_a_pair_like_any_other(heads):
    import pandas as pd

    table = pd.DataFrame({"class": ["glioma", "meningioma", "glioma"]})
    found = find_duplicates(
        fingerprint_images(
            [heads[0], heads[1], spoilt(heads[1], "jpeg 30", np.random.default_rng(0))]
        )
    )
    assert pairs(found) == [(1, 2)]
    assert table["class"][found["first"][0]] != table["class"][found["second"][0]]


def test_neighbouring_slices_of_one_head_are_no_copies():
    pytest.importorskip("nilearn")
    from brain_tumor.imaging.phantoms import phantom

    near = [phantom("no_tumor", seed=7, size=192, offset=float(mm)).pixels for mm in (0, 6, 12)]
    assert find_duplicates(fingerprint_images(near)).empty


def test_two_hundred_copies_of_one_picture_stay_together(heads, crowd):
    rng = np.random.default_rng(3)
    many = []
    for _ in range(200):
        one = np.clip(heads[0] * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
        many.append(
            cv2.imdecode(
                cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])[1],
                cv2.IMREAD_GRAYSCALE,
            )
        )
    groups = group_duplicates(
        find_duplicates(fingerprint_images([*many, *crowd])), 200 + len(crowd)
    )
    assert (
        len(set(groups[:200])) == 1
        and len(set(groups[200:])) == len(crowd)
        and groups[0] not in groups[200:]
    )


# ---- odd input


def test_broken_empty_and_oddly_named_files_are_listed_or_read(heads, tmp_path):
    odd = tmp_path / "Größe é (1) [x] 脑.png"
    odd.write_bytes(cv2.imencode(".png", heads[0])[1].tobytes())
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    whole = cv2.imencode(".png", heads[1])[1].tobytes()
    (tmp_path / "none.jpg").write_bytes(whole[:20])
    files = [
        tmp_path / "empty.png",
        odd,
        tmp_path / "text.png",
        tmp_path,
        tmp_path / "none.jpg",
        tmp_path / "nowhere.png",
    ]
    kept = fingerprint_images([*files, heads[0], str(odd)])
    assert sorted(kept.broken) == [0, 2, 3, 4, 5]
    assert all(str(files[n]) in why for n, why in kept.broken.items())
    assert pairs(find_duplicates(kept)) == [(1, 6), (1, 7)], (
        "broken files are not copies, not even of each other"
    )


@pytest.mark.parametrize("shape", [(8, 8), (1, 40), (40, 1), (1, 1), (3, 500), (600, 2)])
def test_very_small_and_very_narrow_pictures_are_looked_at(shape, heads):
    rng = np.random.default_rng(0)
    tiny = [rng.integers(0, 256, shape, np.uint8) for _ in range(2)]
    found = find_duplicates(fingerprint_images([*heads[:3], *tiny, tiny[0].copy()]))
    assert (3, 5) in pairs(found) and not {0, 1, 2} & set(found["first"])
    assert np.isfinite(found["correlation"]).all()


def test_pictures_of_one_colour_are_copies_only_where_they_are_the_same(heads):
    flat = [np.full((64, 64), value, np.uint8) for value in (0, 0, 128, 255)]
    found = find_duplicates(fingerprint_images([*flat, *heads[:3]]))
    assert pairs(found) == [(0, 1)] and found["exact"].all()
    assert pairs(find_duplicates(fingerprint_images(flat), fingerprint_images(flat[2:]))) == [
        (2, 0),
        (3, 1),
    ]


def test_nothing_and_one_picture_have_no_copies(heads):
    none, one = fingerprint_images([]), fingerprint_images(heads[:1])
    assert (
        none.thumbs.shape == (0, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        and none.heads.shape == (0, 4)
        and none.broken == {}
    )
    for table in (
        find_duplicates(none),
        find_duplicates(one),
        find_duplicates(none, one),
        find_duplicates(one, none),
        find_duplicates(none, none),
        find_duplicates(fingerprint_images(["no.png"])),
    ):
        assert table.empty and list(table) == [
            "first",
            "second",
            "correlation",
            "mirrored",
            "exact",
        ]
    assert pairs(find_duplicates(one, one)) == [(0, 0)]
    assert (
        group_duplicates(find_duplicates(none), 0).tolist() == []
        and [len(x) for x in candidate_pairs(none)] == [0] * 5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4)),
        np.zeros((4, 4), np.float32),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4), bool),
        None,
        3,
    ],
)
def test_what_is_not_a_grey_image_is_rejected(wrong, heads):
    with raises(ErrorCode.IMAGE_INVALID, "H x W uint8"):
        fingerprint_images([heads[0], wrong])


@pytest.mark.parametrize(
    "many, code",
    [
        ("a.png", ErrorCode.ARGUMENT_INVALID),
        (b"a.png", ErrorCode.ARGUMENT_INVALID),
        (Path("a.png"), ErrorCode.ARGUMENT_INVALID),
        (np.zeros((3, 8, 8), np.float32), ErrorCode.IMAGE_INVALID),
    ],
)
def test_one_path_is_not_a_list_of_paths(many, code):
    with raises(code):
        fingerprint_images(many)


# ---- the same every time


def test_the_same_table_twice_and_the_same_pairs_in_any_order(crowd):
    pictures = [
        *crowd[:80],
        *(spoilt(one, WAYS[n % 6], np.random.default_rng(n)) for n, one in enumerate(crowd[:40])),
    ]
    first, again = (
        find_duplicates(fingerprint_images(pictures)),
        find_duplicates(fingerprint_images(pictures)),
    )
    assert first.equals(again) and len(first) == 40
    order = np.random.default_rng(1).permutation(len(pictures))
    mixed = find_duplicates(fingerprint_images([pictures[n] for n in order]))
    assert {tuple(sorted((order[a], order[b]))) for a, b in pairs(mixed)} == set(pairs(first))


def test_cells_find_what_the_exact_search_finds(crowd, monkeypatch):
    pictures = [
        *crowd,
        *(spoilt(one, WAYS[n % 6], np.random.default_rng(n)) for n, one in enumerate(crowd[:60])),
    ]
    exact = find_duplicates(fingerprint_images(pictures))
    monkeypatch.setattr(duplicates, "MANY_IMAGES", 0)
    cells = find_duplicates(fingerprint_images(pictures))
    assert (
        len(exact) == 60
        and len(set(pairs(exact)) & set(pairs(cells))) >= 59
        and set(pairs(cells)) <= set(pairs(exact))
    )


def test_a_cell_with_too_few_heads_returns_no_other_head():
    few = np.eye(9, dtype=np.float32)
    likeness, number = duplicates._by_cells(few, 8)(few)
    assert number.shape == (9, 8) and (likeness.max(1) > 0.99).all()
    assert (number[np.arange(9), likeness.argmax(1)] == np.arange(9)).all()


def test_reading_a_generator_keeps_no_picture():
    def flow(count):
        for number in range(count):
            yield np.full((1000, 1000), number % 256, np.uint8)

    tracemalloc.start()
    kept = fingerprint_images(flow(400))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept.thumbs) == 400 and kept.thumbs[300, 0, 0] == 300 % 256
    assert peak < 200e6, "two chunks of 64 pictures of 1 MB and the thumbnails, not 400"


def test_windows_lie_in_the_head_and_the_head_comes_first():
    for head in ((0, THUMBNAIL_SIDE, 0, THUMBNAIL_SIDE), (10, 80, 5, 90), (30, 60, 40, 66)):
        found = crop_windows(head)
        assert found[0] == head and len(set(found)) == len(found) <= 36
        assert all(
            head[0] <= t < b <= head[1] and head[2] <= l < r <= head[3] for t, b, l, r in found
        )
    assert len(crop_windows((40, 64, 40, 64))) == 1, "a crop of a tenth does not reach it"


def test_the_head_is_found_beside_letters_and_frames(heads):
    framed = np.pad(heads[0], 40)
    framed[2:4] = framed[-4:-2] = 255
    cv2.putText(framed, "R 1.5T", (4, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    top, bottom, left, right = head_rectangle(square_thumbnail(framed))
    alone = head_rectangle(square_thumbnail(np.pad(heads[0], 40)))
    assert np.abs(np.subtract((top, bottom, left, right), alone)).max() <= 1


# ---- the generator of many pictures


def test_the_generated_pictures_are_distinct_and_hold_the_planted_copies(heads):
    base = np.stack([cv2.resize(one, (128, 128), interpolation=cv2.INTER_AREA) for one in heads])
    planted = planted_at(200, 21, seed=4)
    assert len({*planted, *(original for original, _ in planted.values())}) == 42
    made = list(stream(200, 21, 4, base))
    assert all(np.array_equal(a, b) for a, b in zip(made, stream(200, 21, 4, base)))
    found = pairs(find_duplicates(fingerprint_images(iter(made), 200)))
    known = {tuple(sorted((copy, original))): way for copy, (original, way) in planted.items()}
    assert set(found) <= set(known), "no two others look like copies"
    assert all(pair in found for pair, way in known.items() if way != "all")


# ---- the public sets


def test_the_first_slices_and_their_copies_on_kaggle(shared_data):
    import pandas as pd

    slices = pd.read_csv(shared_data / "figshare" / "manifest.csv")
    slices = slices[slices["id"] <= 400].reset_index(drop=True)
    kaggle = pd.read_csv(shared_data / "kaggle" / "manifest.csv")
    kaggle = kaggle[kaggle["figshare_id"].isin(slices["id"])].reset_index(drop=True)
    found = find_duplicates(
        fingerprint_images([shared_data / "kaggle" / name for name in kaggle["image"]]),
        fingerprint_images([shared_data / "figshare" / name for name in slices["image"]]),
    )
    best = (
        found.sort_values("correlation", ascending=False)
        .drop_duplicates("first")
        .set_index("first")
    )
    matched = (
        slices["id"].to_numpy()[best["second"]] == kaggle["figshare_id"].to_numpy()[best.index]
    )
    assert (
        len(kaggle) > 400
        and len(best) >= 0.99 * len(kaggle)
        and (~matched).sum() <= 0.005 * len(kaggle)
    )
    turned = kaggle["mirrored"].to_numpy()[best.index][matched] == 1
    assert (best["mirrored"].to_numpy()[matched] == turned).mean() > 0.99 and turned.sum() > 100
    one_group = (
        slices["group"].to_numpy()[found["second"]] == kaggle["group"].to_numpy()[found["first"]]
    )
    assert one_group.mean() >= 0.99

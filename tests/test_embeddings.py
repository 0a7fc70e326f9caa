"""Embeddings: the encoder, the cache, nearest neighbours, t-SNE maps, and the recorded tables."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from errors import raises

import brain_tumor.inference.engines as engines
from brain_tumor.data import embeddings
from brain_tumor.data.embeddings import (
    augmented_copy,
    balancing_rows,
    embed,
    frame_thumbnail,
    load_encoder,
    nearest_neighbours,
    neighbour_shares,
    pooling_input,
    tsne_map,
)
from brain_tumor.imaging.preprocessing import prepare
from brain_tumor.imaging.samples import samples
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.files import MODELS

pd = pytest.importorskip("pandas")
RUN = Path(__file__).parent.parent / "runs" / "features"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve small pictures, smooth and all different."""
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(12):
        cv2.imwrite(
            str(place / f"{number:02}.png"),
            cv2.resize(
                rng.integers(0, 255, (6, 5)).astype(np.uint8),
                (50, 60),
                interpolation=cv2.INTER_CUBIC,
            ),
        )
    return place


@pytest.fixture
def paths(folder):
    return sorted(folder.glob("*.png"))


def counting():
    """A stand-in for a network that tells which batches it was given."""
    seen = []

    def mean(pictures):
        seen.append(len(pictures))
        return np.array([[p.mean(), p.std()] for p in pictures], np.float32)

    return mean, seen


# ---- the packed network


def test_engines_and_embeddings_load_models_by_the_same_functions():
    for name in ("read_model_manifest", "read_verified", "start_session"):
        assert getattr(engines, name) is getattr(embeddings, name)


def test_importing_the_module_loads_nothing_heavy():
    code = (
        "import sys, brain_tumor.data.embeddings, brain_tumor.data.shortcuts; print(*[n for n "
        "in ('pandas', 'sklearn', 'onnx', 'tensorflow', 'matplotlib', 'seaborn') if n in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr


@pytest.fixture(scope="module")
def squares():
    return np.stack(
        [prepare(read_in_process(path).pixels)[0] for path in samples() if path.suffix == ".png"]
    )


def test_the_cut_network_is_the_inside_of_the_whole_one(squares):
    pytest.importorskip("tensorflow", reason="TensorFlow comes with the extra `workbook`")
    import keras

    from brain_tumor.compact.export import rebuild_compact
    from brain_tumor.compact.network import TOP_LAYER

    whole = rebuild_compact(MODELS / "compact" / "weights.npz")
    inside = keras.Model(
        whole.input, [whole.get_layer(TOP_LAYER).output, whole.get_layer("overall").output]
    )
    top, pooled = inside.predict(squares[..., None], verbose=0)
    found = load_encoder()(squares)
    assert top.std(axis=0).max() > 0.1, "the pictures must differ, or this proves nothing"
    assert found.shape == top.shape == (len(squares), 8, 8, 320)
    assert np.abs(found - top).max() < 0.02 * np.abs(top).max()
    assert np.abs(found.mean((1, 2)) - pooled).max() < 0.02 * np.abs(pooled).max()


def test_a_graph_that_is_no_packed_network_is_refused():
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["b"])],
        "small",
        [value("a", 1, [1])],
        [value("b", 1, [1])],
    )
    with raises(ErrorCode.MODEL_INVALID, "0 "):
        pooling_input(onnx.helper.make_model(graph).SerializeToString())


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with raises(ErrorCode.DEPENDENCY_MISSING, "onnx"):
        pooling_input(b"")


def test_a_swapped_model_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(
        json.dumps({"size": 256, "sha256": {"compact.onnx": "0" * 64}})
    )
    (tmp_path / "compact.onnx").write_bytes((MODELS / "compact" / "compact.onnx").read_bytes())
    with raises(ErrorCode.MODEL_INVALID, "compact.onnx"):
        embed(["any.png"], by=tmp_path)


# ---- embed and its cache


def test_order_batches_and_tables(paths):
    one, seen = counting()
    vectors = embed(paths, one, batch=5)
    assert seen == [5, 5, 2] and vectors.shape == (12, 2) and vectors.dtype == np.float32
    assert np.array_equal(embed(pd.DataFrame({"path": paths[::-1]}), one, batch=1), vectors[::-1])
    assert np.allclose(embed(paths, batch=12), embed(paths, batch=5), atol=1e-3)


def test_what_is_kept_is_not_computed_again_and_what_changed_is(paths, tmp_path):
    one, seen = counting()
    first = embed(paths, one, tmp_path)
    assert np.array_equal(embed(paths, one, tmp_path), first) and sum(seen) == 12
    moved = tmp_path / "another name.png"
    moved.write_bytes(paths[3].read_bytes())
    assert np.array_equal(embed([moved], one, tmp_path)[0], first[3]) and sum(seen) == 12, (
        "the content counts, not the name"
    )
    altered = embed(
        paths, one, tmp_path, alter=lambda picture, row: picture if row else 255 - picture
    )
    assert (
        sum(seen) == 13
        and np.array_equal(altered[1:], first[1:])
        and altered[0, 0] == pytest.approx(255 - first[0, 0], abs=1e-3)
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"nonsense",
        lambda b: b[:150] + bytes([b[150] ^ 255]) + b[151:],
    ],
)
def test_a_damaged_cache_is_made_anew(paths, tmp_path, damage):
    one, seen = counting()
    first = embed(paths, one, tmp_path)
    file = next(tmp_path.glob("*.npz"))
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert np.array_equal(embed(paths, one, tmp_path), first) and sum(seen) == 24
    assert [p.name for p in tmp_path.iterdir()] == [file.name], "nothing half-done beside it"
    assert np.array_equal(embed(paths, one, tmp_path), first) and sum(seen) == 24


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    for number in range(1100):
        cv2.imwrite(
            str(tmp_path / f"{number:04}.png"), np.array([[number // 256, number % 256]], np.uint8)
        )
    paths, done = sorted(tmp_path.glob("*.png")), []

    def slow(pictures):
        if len(done) >= 1056 and stop:
            raise KeyboardInterrupt
        done.extend(pictures)
        return np.array([[p[0, 0] * 256.0 + p[0, 1]] for p in pictures])

    stop = True
    with pytest.raises(KeyboardInterrupt):
        embed(paths, slow, tmp_path / "cache")
    stop, before = False, len(done)
    assert np.array_equal(embed(paths, slow, tmp_path / "cache")[:, 0], np.arange(1100))
    assert len(done) - before < 150, "the first thousand were kept"


def test_broken_pictures_are_named_when_the_rest_is_done(paths, tmp_path):
    one, seen = counting()
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:30])
    with raises(ErrorCode.FILE_UNREADABLE, "broken.png", "missing.png", "2 of 14"):
        embed([tmp_path / "broken.png", *paths, tmp_path / "missing.png"], one, tmp_path)
    assert sum(seen) == 12
    embed(paths, one, tmp_path)
    assert sum(seen) == 12
    with raises(ErrorCode.DATA_MISSING):
        embed(pd.DataFrame({"path": []}))


def test_pixels_are_the_thumbnail(paths):
    picture = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(embed(paths[:1], "pixels")[0], frame_thumbnail(picture).ravel())


# ---- balancing


def test_balancing_fills_up_and_takes_nothing_away():
    table = pd.DataFrame({"class": ["glioma"] * 5 + ["pituitary"] * 2, "path": list("abcdefg")})
    many = balancing_rows(table, 4, seed=1)
    assert many["class"].value_counts().to_dict() == {"glioma": 5, "pituitary": 4} and many[
        "path"
    ].tolist()[:7] == list("abcdefg")
    assert many["added"].tolist() == [0] * 7 + [1, 2] and set(many["path"][7:]) <= {"f", "g"}


def test_a_copy_keeps_the_thesis_limits():
    flat = np.full((80, 60), 100, np.uint8)
    means = [augmented_copy(flat, number).mean() for number in range(1, 200)]
    assert 79 <= min(means) < 85 and 115 < max(means) <= 121, (
        "brightness changes by up to a fifth, and by no more"
    )
    assert augmented_copy(flat, 1).shape == (150, 150)
    spot = np.zeros((150, 150), np.uint8)
    spot[70:80, 70:80] = 255
    places = [np.argwhere(augmented_copy(spot, number) > 50).mean(0) for number in range(1, 100)]
    away = np.abs(np.array(places) - 74.5)
    assert 10 < away.max() <= 16, "shifts by up to a tenth of 150 pixels"


# ---- neighbours and maps


def test_nearest_agrees_with_scikit_learn_across_blocks():
    from sklearn.neighbors import NearestNeighbors

    vectors = np.random.default_rng(0).normal(5, 1, (2300, 6)).astype(np.float32)
    judged = (
        NearestNeighbors(n_neighbors=2)
        .fit(vectors)
        .kneighbors(vectors, return_distance=False)[:, 1]
    )
    assert (nearest_neighbours(vectors) == judged).mean() > 0.999
    group = np.arange(2300) // 4
    found = nearest_neighbours(vectors, group)
    assert (group[found] != group).all()
    for row in (0, 999, 1000, 2299):
        others = np.flatnonzero(group != group[row])
        assert (
            found[row]
            == others[np.linalg.norm(vectors[others].astype(float) - vectors[row], axis=1).argmin()]
        )


def test_purity_by_hand():
    table = pd.DataFrame({"group": list("aabbc"), "class": list("xxyyx"), "source": list("ssstt")})
    found = neighbour_shares(np.array([[0.0], [1.0], [10.0], [11.5], [12.0]]), table).set_index(
        "of"
    )
    # nearest: 0-1, 1-0, 2-3, 3-4, 4-3; elsewhere: 0-2, 1-2, 2-4, 3-4, 4-3
    assert found["same"].to_dict() == {"group": 0.6, "class": 0.6, "source": 0.8}
    assert found["elsewhere"]["class"] == 0.0 and found["elsewhere"]["source"] == 0.8
    assert found["chance"]["class"] == pytest.approx((3 * 2 + 2 * 1) / 20)


def test_a_map_is_the_same_for_the_same_seed_and_kept(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(0, 1, (40, 10))
    first = tsne_map(vectors, seed=3, perplexity=5, cache=tmp_path)
    assert first.shape == (40, 2) and np.array_equal(first, tsne_map(vectors, seed=3, perplexity=5))
    assert not np.allclose(
        first,
        tsne_map(
            vectors + 0.5 * np.random.default_rng(1).normal(0, 1, (40, 10)), seed=3, perplexity=5
        ),
    )
    file = next(tmp_path.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:-100])
    assert np.array_equal(first, tsne_map(vectors, seed=3, perplexity=5, cache=tmp_path))
    import sklearn.manifold

    monkeypatch.setattr(sklearn.manifold, "TSNE", None)
    assert np.array_equal(first, tsne_map(vectors, seed=3, perplexity=5, cache=tmp_path)), (
        "the kept map is used"
    )


# ---- the records


def recorded():
    return {
        f"{by}_{when}": pd.read_csv(RUN / f"tsne_{by}_{when}.csv")
        for by in ("pixels", "compact")
        for when in ("before", "after")
    }


def test_the_recorded_maps_are_small_and_hold_no_picture():
    for path in RUN.glob("*.csv"):
        assert path.stat().st_size < 400_000
    for page in recorded().values():
        assert (
            list(page.columns) == ["x", "y", "class", "group", "source", "added"]
            and page.notna().all().all()
        )
        assert set(page["source"]) == {"figshare", "kaggle"}


def test_balanced_means_balanced():
    for name, page in recorded().items():
        if name.endswith("after"):
            assert page["class"].value_counts().eq(2000).all() and page["added"].sum() + len(
                recorded()[name.replace("after", "before")]
            ) == len(page)
        else:
            assert page["added"].eq(0).all()


def test_the_recorded_figures_follow_from_the_recorded_maps():
    beside = pd.read_csv(RUN / "neighbours.csv")
    split = json.loads((RUN.parent / "compact_2" / "run.json").read_text(encoding="utf-8"))[
        "split_sha256"
    ]
    assert set(beside["split"]) == {split[:11]}
    for name, page in recorded().items():
        by, when = name.split("_")
        wanted = beside[
            (beside["set"] == f"Training, {when}") & (beside["by"] == f"{by}, map")
        ].set_index("of")
        assert (
            len(page) == wanted["pictures"].iloc[0]
            and page["group"].nunique() == wanted["groups"].iloc[0]
        )
        if when == "before":
            found = nearest_neighbours(page[["x", "y"]])
            for column in ("group", "class", "source"):
                same = (page[column].to_numpy()[found] == page[column]).mean()
                assert same == pytest.approx(wanted["same"][column], abs=0.005)


def test_the_recorded_set_is_the_folder(shared_data):
    training, table, split = embeddings._read_one_set(shared_data)
    page = recorded()["pixels_before"]
    assert (
        training["class"].tolist() == page["class"].tolist()
        and training["group"].tolist() == page["group"].tolist()
    )
    assert (
        split.startswith(pd.read_csv(RUN / "neighbours.csv")["split"][0])
        and table["copy_of"].isna().all()
    )

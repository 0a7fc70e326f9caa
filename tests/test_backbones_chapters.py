"""The chapters on networks: counts against other libraries, blocks that can be cut, recorded times,
runs of other networks."""

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from errors import raises

pytest.importorskip("keras")
from brain_tumor.classification import architecture  # noqa: E402
from brain_tumor.classification.backbones import build_backbone, cut_network  # noqa: E402
from brain_tumor.io.errors import ErrorCode  # noqa: E402
from brain_tumor.training.inspection import layer_table, multiplications  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {
    "XCEPTION": "xception",
    "INCEPTION_V3": "inception_v3",
    "RESNET50": "resnet50",
    "RESNET50_V2": "resnet50",
    "VGG19": "vgg19",
    "MOBILENET_V2": "mobilenet_v2",
}


def backbone(constant):
    module = importlib.import_module(f"brain_tumor.classification.{NETWORKS[constant]}")
    return getattr(module, constant)


@pytest.mark.parametrize("constant", NETWORKS)
def test_everything_passes_through_the_end_of_a_block(constant):
    network = backbone(constant)
    assert network.tuned_from in network.blocks
    whole = build_backbone(network, 75)
    for block in network.blocks:
        front, back = cut_network(whole, block)  # Keras refuses a cut around which something passes
        assert front.output.shape[1:] == back.input.shape[1:]


def test_a_cut_inside_a_block_is_noticed():
    with pytest.raises(ValueError):
        cut_network(build_backbone(backbone("RESNET50"), 64), "conv3_block2_1_relu")


def profiled(model):
    """Multiplications by TensorFlow's own profiler, which counts additions as well."""
    tf = pytest.importorskip("tensorflow")
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph,
    )

    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(
        tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    )
    frozen, _ = convert_variables_to_constants_v2_as_graph(concrete)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        options = (
            tf.compat.v1.profiler.ProfileOptionBuilder(
                tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
            )
            .with_empty_output()
            .build()
        )
        result = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    # each kind of operation is the only child of the one before; its count includes those below
    total = 0
    while result.children:
        result = result.children[0]
        below = result.children[0].total_float_ops if result.children else 0
        total += (
            result.total_float_ops - below
            if result.name in ("Conv2D", "DepthwiseConv2dNative", "MatMul")
            else 0
        )
    return total // 2


@pytest.mark.parametrize("application", ["MobileNetV2", "Xception", "ResNet50V2"])
def test_multiplications_are_tensorflows(application):
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the oracle is TensorFlow's profiler")
    keras.backend.clear_session()
    model = getattr(keras.applications, application)(
        weights=None, include_top=False, pooling="avg", input_shape=(96, 96, 3)
    )
    assert multiplications(model) == profiled(model)


@pytest.mark.parametrize(
    "application, field", [("VGG16", 212), ("ResNet50", 483), ("InceptionV3", 1311)]
)
def test_receptive_fields_are_the_published_ones(application, field):
    """Araujo, Norris and Sim 2019, https://distill.pub/2019/computing-receptive-fields."""
    import keras

    model = getattr(keras.applications, application)(
        weights=None, include_top=False, input_shape=(75, 75, 3)
    )
    assert layer_table(model)["sees"].iloc[-1] == field


def test_times_are_ratios_of_rounds_to_the_fastest():
    from bench.backbones import ratios

    result = ratios({"a": [2.0, 4.0, 2.0, 2.0], "b": [1.0, 1.0, 1.0, 1.0]})
    assert (
        result["b"]["ratio"] == 1
        and result["a"]["ratio"] == 2
        and result["a"]["low"] <= 2 <= result["a"]["high"] <= 4
    )
    assert result["a"]["milliseconds"] == 2000


def test_the_record_of_times_is_whole():
    recorded = json.loads((ROOT / "runs" / "bench" / "backbones.json").read_text(encoding="utf-8"))
    names = {backbone(constant).name for constant in NETWORKS}
    assert recorded["beside"] and recorded["threads"] == 2 and set(recorded["sides"]) == names
    for batch in ("1", "16"):
        assert set(recorded["batches"][batch]) == names
        assert all(
            row["low"] <= row["ratio"] <= row["high"] for row in recorded["batches"][batch].values()
        )
    assert {backbone(constant).name: backbone(constant).side for constant in NETWORKS} == recorded[
        "sides"
    ]


def test_a_table_of_the_thesis_without_a_network_gives_empty_figures(tmp_path):
    (tmp_path / "table.csv").write_text(
        "network,title,year,layers,million_parameters,side,inference\nvgg19,VGG-19,2014,18,1.0,224,slow\n"
    )
    table = architecture.thesis_table_2_1(backbone("MOBILENET_V2"), tmp_path / "table.csv")
    assert table["thesis"].isna().all() and table["built"].notna().all()


def test_runs_of_a_network_are_its_own(tmp_path):
    from brain_tumor.training.runs import write_example_run

    for name, network in (("a", "vgg19"), ("b", "resnet50_v2"), ("c", "resnet50")):
        folder = write_example_run(tmp_path / name, patients=16)
        recorded = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(recorded | {"network": network, "start": None}))
    assert [run.name for run in architecture.backbone_runs("resnet50", tmp_path)] == ["c"]
    assert architecture.backbone_runs("xception", tmp_path) == []
    figure = architecture.draw_curves(architecture.backbone_runs("vgg19", tmp_path))
    assert (
        "not recorded yet" in {text.get_text() for text in figure.axes[1].texts}
        and len(figure.axes[0].lines) >= 2
    )
    table = architecture.backbone_runs_table(architecture.backbone_runs("vgg19", tmp_path))
    assert table["start"].tolist() == ["random numbers"] and "made up" in table["rules"].iloc[0]


def test_times_of_another_file_are_rejected(tmp_path):
    (tmp_path / "times.json").write_text(json.dumps({"batches": {}, "sides": {}}))
    with raises(ErrorCode.DATA_MISSING, "times.json", "16"):
        architecture.read_times(16, tmp_path / "times.json")
    with raises(ErrorCode.FILE_NOT_FOUND, "nothing.json"):
        architecture.read_times(1, tmp_path / "nothing.json")


def test_a_layer_used_by_two_ways_counts_once_in_parameters():
    import keras

    scan = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(scan)
    way = keras.layers.Conv2D(4, (1, 5), padding="same", dilation_rate=2)(x)
    model = keras.Model(scan, keras.layers.Add()([x, way]))
    table = layer_table(model)
    assert table["parameters"].sum() == model.count_params() and table["depth"].iloc[-1] == 2
    assert (
        table["sees"].iloc[-1] == 3 + 4 * 2
        and isinstance(table, pd.DataFrame)
        and np.all(table["multiplications"] >= 0)
    )

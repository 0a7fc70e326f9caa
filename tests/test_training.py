"""Training through plain PyTorch: Keras' own answers, in training too."""
import importlib.util
import json
import os
import subprocess
import sys

import pytest

COMPARE = """
import json
import keras, numpy as np
from brain_tumor.compact import build, start_from
from brain_tumor.training import through_torch

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).random((4, 96, 128, 1), np.float32)
found = {}
for training in (False, True):
    keras.utils.set_random_seed(2)
    model = build()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * np.random.default_rng(1).standard_normal(layer.moving_mean.shape))
            layer.moving_variance.assign(np.random.default_rng(2).uniform(0.5, 2, layer.moving_variance.shape))
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    before = model.get_weights()
    answers = []
    for run in (lambda m: m, lambda m: through_torch(m, half=False)):
        model.set_weights(before)
        outputs = [keras.ops.convert_to_numpy(o) for o in run(model)(x, training=training)]
        moved = [keras.ops.convert_to_numpy(v) for v in model.non_trainable_variables if "moving" in v.path]
        answers.append((outputs, moved))
    (ours, our_statistics), (theirs, their_statistics) = answers
    found[str(training)] = {
        "spread": min(float(np.ptp(a)) for a in ours),
        "outputs": max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in zip(ours, theirs)),
        "statistics": max(float((np.abs(a - b) / (1 + np.abs(a))).max()) for a, b in zip(our_statistics, their_statistics)),
        "moved": float(max(np.abs(a - b).max() for a, b in zip(our_statistics, [v for v, w in zip(before, model.weights) if "moving" in w.path])))}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compared():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; it is needed for faster training only")
    done = subprocess.run([sys.executable, "-c", COMPARE], capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "torch"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("training", ["False", "True"])
def test_plain_torch_gives_what_keras_gives(compared, training):
    assert compared[training]["spread"] > 0.1, "all answers alike would prove nothing"
    assert compared[training]["outputs"] < 1e-3


def test_statistics_move_as_in_keras(compared):
    """PyTorch divides by n - 1 where Keras divides by n: with 4 x 3 x 4 values at the deepest level, 2 %, times the momentum's 1 %."""
    assert compared["False"]["moved"] == 0
    assert compared["True"]["moved"] > 0
    assert compared["True"]["statistics"] < 2e-3

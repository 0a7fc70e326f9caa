"""Thousands of damaged files: each gives an Analysis or an error, in bounded time and memory.

`make test` runs the same examples each time. `make fuzz` runs many more, others each time
(FUZZ_EXAMPLES, FUZZ_SEED), and records the counts (FUZZ_RECORD). Damage that once caused another
outcome has a test of its own in test_bad_input.py.
"""

import gzip
import json
import os
import re
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import resource_use
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mutations import FORMATS, damaged, fields, seeds

from brain_tumor import Analysis, BrainTumorError, analyze
from brain_tumor.io import read as decoder
from brain_tumor.io.errors import ErrorCode
from brain_tumor.io.scan import CLASSES

MORE = float(os.environ.get("FUZZ_EXAMPLES", 1))  # times as many
EXAMPLES = {
    "PNG": 1500,
    "JPEG": 1200,
    "TIFF": 2000,
    "DICOM": 2400,
    "NIfTI": 1200,
    "NRRD": 1200,
    "others": 500,
}  # 10,000
TALLY = defaultdict(Counter)  # by format: how the examples ended
STOPPED = "stopped by the decoding process"
EDITS = (
    "field",
    "field",
    "field",
    "flip",
    "near",
    "near",
    "cut",
    "drop",
    "repeat",
    "splice",
    "line",
)


def edits():
    return st.lists(
        st.tuples(st.sampled_from(EDITS), st.floats(0, 1, exclude_max=True), st.integers(0, 65535)),
        min_size=1,
        max_size=4,
    )


def searched(examples):
    """The same examples each time, or with FUZZ_SEED those of that seed; nothing is stored."""
    chosen = os.environ.get("FUZZ_SEED")
    common = settings(
        max_examples=int(examples * MORE),
        database=None,
        deadline=None,
        derandomize=chosen is None,
        suppress_health_check=list(HealthCheck),
    )
    return (
        (lambda test: common(test))
        if chosen is None
        else (lambda test: seed(int(chosen))(common(test)))
    )


def cheap(scan):
    """An engine that costs nothing: bright is tumour."""
    return SimpleNamespace(
        probabilities=np.array([0.7, 0.1, 0.1, 0.1]), mask_probability=scan.pixels, threshold=0.8
    )


def outcome(data, engine):
    """Analyse a file, a second time with a slice if one is needed; return the kind of outcome."""
    wanted = None
    for _ in range(3):
        try:
            result = analyze(data, slice=wanted, engine=engine)
        except BrainTumorError as error:
            if error.volumes and wanted is None:
                wanted = (0, 0)
            elif error.count and wanted is None:
                wanted = 0
            else:
                return checked_error(error)
        else:
            return sound(result)
    return "needs a slice again and again"


def checked_error(error):
    """An error has a code and the form 'input: what is wrong. Remedy.', on one line."""
    message = str(error)
    assert re.fullmatch(r"[^\n]+: .+\. .+[.)]", message) and len(message) < 600, message
    assert isinstance(error.code, ErrorCode)
    return STOPPED if error.code == ErrorCode.DECODER_FAILED else "refused"


def sound(result):
    """An answer is whole, and nothing in it is no number."""
    assert isinstance(result, Analysis)
    if result.status == "refused":
        return "refused by the gate"
    pixels = result.scan.pixels
    assert pixels.dtype == np.float32 and 0 <= pixels.min() < pixels.max() <= 1
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-3) and set(
        result.probabilities
    ) == set(CLASSES)
    json.dumps(result.to_dict(full=True), allow_nan=False)
    return "analysed"


@pytest.fixture(scope="module", autouse=True)
def record():
    yield
    path = os.environ.get("FUZZ_RECORD")
    if path and TALLY:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(Path(path).read_text()) if Path(path).is_file() else {}
        before["hypothesis"] = {
            "seed": os.environ.get("FUZZ_SEED"),
            "seeds": {kind: len(seeds(kind)) for kind in FORMATS},
            "examples": sum(sum(counts.values()) for counts in TALLY.values()),
            "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in TALLY.items()},
            "peak_mb": resource_use.peak_mb(),
        }
        Path(path).write_text(json.dumps(before, indent=1, sort_keys=True) + "\n")


def test_the_seeds_are_good_and_their_headers_are_found():
    for kind in FORMATS:
        for number, data in enumerate(seeds(kind)):
            assert outcome(data, cheap) == "analysed", (kind, number)
            plain = gzip.decompress if data[:2] == b"\x1f\x8b" else bytes
            assert plain(damaged(kind, number, [])) == plain(data) and fields(kind, number)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_end_in_an_analysis_or_a_refusal(kind, capfd):
    spent = []

    @searched(EXAMPLES[kind])
    @given(st.integers(0, len(seeds(kind)) - 1), edits(), st.integers(0, 4))
    def one(number, how, mend):
        data = damaged(kind, number, how, mend > 0)
        before = resource_use.processor()
        came = outcome(data, cheap)
        spent.append(resource_use.processor() - before)
        TALLY[kind][came] += 1

    decoder._decoder_pool.close()
    children = resource_use.children()
    resource_use.reset_peak()
    start = resource_use.resident_mb()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        one()
    wanted, found = int(EXAMPLES[kind] * MORE), TALLY[kind]
    assert sum(found.values()) >= wanted and set(found) <= {"analysed", "refused", STOPPED}, found
    assert found["refused"] > wanted / 25 and found["analysed"] > wanted / 80, found
    assert found[STOPPED] <= (0 if kind in ("JPEG", "NIfTI", "NRRD") else wanted / 200), (
        "a decoder that crashes often is broken"
    )
    assert [str(warning.message) for warning in said] == []
    decoder._decoder_pool.close()  # an ended child's seconds are its parent's to see
    assert max(spent) < 30, "seconds of the processor for one small file"
    assert resource_use.children() - children < 30 + len(spent) / 20, (
        "seconds of the decoding processes for all of them"
    )
    assert resource_use.peak_mb() - start < 1500
    spoken = capfd.readouterr()
    assert spoken.out == ""
    if kind not in (
        "PNG",
        "JPEG",
    ):  # whose decoders in C speak to the terminal where a checksum was forged
        assert spoken.err == ""


def test_damaged_files_and_the_real_network(capfd):
    @searched(400)
    @given(st.sampled_from(FORMATS), st.integers(0, 99), edits())
    def one(kind, number, how):
        data = damaged(kind, number % len(seeds(kind)), how[:2])
        TALLY["the network's"][outcome(data, "compact")] += 1

    one()
    assert (
        TALLY["the network's"]["analysed"] + TALLY["the network's"]["refused by the gate"]
        > 50 * MORE
    )

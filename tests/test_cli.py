"""The command line: exit statuses, what goes to which stream, what is written, and how it ends."""

import csv
import json
import os
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import brain_tumor.inference.analyze as analysis
import brain_tumor.inference.streaming as streaming
from brain_tumor import __version__
from brain_tumor.cli import DEMO, demo_samples, encodable_text, main
from brain_tumor.imaging.samples import sample_truth, samples
from brain_tumor.inference.result import RESULT_COLUMNS
from brain_tumor.io.errors import BrainTumorError
from brain_tumor.io.pages import png_bytes
from brain_tumor.io.scan import CLASSES, INTENDED_USE


def oracle(scan):
    """Knows the truth of the bundled samples; calls bright pixels of other images a glioma."""
    try:
        truth = sample_truth(scan.source)
        name, mask = truth.tumor, truth.mask
    except BrainTumorError:
        name, mask = "glioma", scan.pixels > 0.8
    odds = np.where(np.array(CLASSES) == name, 0.94, 0.02)
    return SimpleNamespace(
        probabilities=odds, mask_probability=mask.astype(np.float32), threshold=0.5
    )


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """The oracle stands where the network is looked up."""
    asked = []
    lookup = SimpleNamespace(load_engine=lambda name: asked.append(name) or oracle)
    monkeypatch.setitem(sys.modules, "brain_tumor.inference.engines", lookup)
    return asked


def picture(number, size=64):
    values = np.full((size, size), 60, np.uint8)
    values[10:18, 4 + number : 16 + number] = 255
    return values


@pytest.fixture
def scans(tmp_path):
    """Three good pictures, one of them below."""
    for number, name in enumerate(("a.png", "b.png", "deep/a.png")):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(picture(number)))
    return tmp_path / "scans"


def run(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_all_good_is_0_and_the_table_has_a_line_each(capsys, scans):
    status, out, err = run(capsys, "analyze", scans, "--spacing", 0.5)
    assert status == 0 and INTENDED_USE in out
    lines = out.splitlines()[2:5]
    assert [line.split()[1:3] for line in lines] == [["glioma", "94%"]] * 3
    assert sorted(line.split()[0] for line in lines) == sorted(
        Path(name).as_posix() for name in scans.rglob("*.png")
    )
    assert out.count("0.24 cm²") == 3 and out.count("0.60 x 0.40 cm") == 3


def test_some_refused_is_1_each_named_the_others_unharmed(capsys, scans, tmp_path):
    (scans / "bad.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    status, out, err = run(
        capsys,
        "analyze",
        scans,
        tmp_path / "gone.png",
        tmp_path / "empty",
        tmp_path / "*.tiff",
        "--out",
        tmp_path / "out",
    )
    assert status == 1
    refused = [
        line for line in err.replace("\r", "\n").splitlines() if line.startswith("refused: ")
    ]
    assert len(refused) == 4
    for name, line in zip(("bad.png", "gone.png", "empty", "*.tiff"), refused):
        assert name in line and len(line) > len(name) + 30, line
    assert [line.split()[1] for line in out.splitlines()[2:9]] == ["glioma"] * 2 + [
        "refused",
        "glioma",
    ] + ["refused"] * 3
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 3
    with open(tmp_path / "out" / "results.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == [
        "ok",
        "ok",
        "refused",
        "ok",
        "refused",
        "refused",
        "refused",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "fly",
        "analyze",
        "analyze x.png --spacing 0",
        "analyze x.png --spacing -1",
        "analyze x.png --spacing wide",
        "analyze x.png --slice last",
        "analyze x.png --axis 7",
        "analyze x.png --json --csv",
        "analyze x.png --colour red",
        "train",
        "train compact",
    ],
)
def test_wrong_use_is_2_and_names_the_problem(capsys, words):
    status, out, err = run(capsys, *words.split())
    assert status == 2 and out == "" and "usage:" in err and "error:" in err


def test_unwritable_out_is_2(capsys, scans, tmp_path):
    (tmp_path / "file").write_text("I am in the way")
    for command in (["analyze", scans], ["demo"]):
        status, out, err = run(capsys, *command, "--out", tmp_path / "file")
        assert status == 2 and "file" in err and "Traceback" not in err


def test_a_model_that_cannot_be_used_is_2(capsys, scans, monkeypatch):
    def broken(name):
        raise BrainTumorError(
            f"{name}: its sha256 is not the one in its manifest. Install the package again."
        )

    monkeypatch.setitem(
        sys.modules, "brain_tumor.inference.engines", SimpleNamespace(load_engine=broken)
    )
    status, out, err = run(capsys, "analyze", scans)
    assert status == 2 and "sha256" in err


def test_version_and_help(capsys):
    assert run(capsys, "--version")[:2] == (0, f"brain_tumor {__version__}\n")
    assert run(capsys, "--help")[0] == run(capsys, "analyze", "--help")[0] == 0


def test_json_is_one_list_and_repeats_itself(capsys, scans):
    (scans / "bad.png").write_text("no picture")
    first, second = (
        run(capsys, "analyze", scans, "--json", "--spacing", "0.5,0.7") for _ in range(2)
    )
    assert first[:2] == second[:2] and first[0] == 1
    answers = json.loads(first[1])
    assert [answer["source"] for answer in answers] == ["a.png", "b.png", "bad.png", "a.png"]
    assert answers[0]["spacing"] == {"mm": [0.5, 0.7], "source": "given"}
    assert all(answer["intended_use"] == INTENDED_USE for answer in answers)


def test_csv_is_a_table(capsys, scans):
    status, out, err = run(capsys, "analyze", scans, "--csv")
    rows = list(csv.reader(StringIO(out)))
    assert (
        status == 0
        and tuple(rows[0]) == RESULT_COLUMNS
        and len(rows) == 4
        and {len(row) for row in rows} == {len(RESULT_COLUMNS)}
    )


def test_engine_and_slice_are_handed_on(capsys, engine, tmp_path):
    volume = samples("nii.gz")[0]
    truth = sample_truth(volume)
    status, out, err = run(
        capsys,
        "analyze",
        volume,
        "--slice",
        truth.slice,
        "--axis",
        "axial",
        "--engine",
        "other",
        "--json",
        "--out",
        tmp_path,
    )
    assert status == 0 and engine == ["other"]
    answer = json.loads(out)[0]
    assert answer["input"]["slice"] == truth.slice and answer["mask"]["pixels"] == truth.mask.sum()
    assert len(list(tmp_path.glob("*_mask.nii.gz"))) == 1


def test_thesis_spacing(capsys, scans):
    status, out, err = run(capsys, "analyze", scans / "a.png", "--spacing", "thesis")
    assert status == 0 and "96 dpi" in out


@pytest.mark.parametrize("every", [False, True])
def test_demo_prints_the_truth_beside_the_prediction(capsys, tmp_path, every):
    words = ["demo", "--out", str(tmp_path / "demo"), *["--all"] * every]
    paths = demo_samples(every)
    assert len(paths) == (len(samples("all")) if every else len(DEMO)) == len(set(paths))
    status, out, err = run(capsys, *words)
    assert status == 0 and INTENDED_USE in out and str(tmp_path / "demo") in out
    for path in paths:
        line = next(line for line in out.splitlines() if line.startswith(path.name))
        truth = sample_truth(path).tumor.replace("_", " ")
        assert line.count(truth) == 2 + path.name.count(truth) and line.endswith("1.00")
    assert len(list((tmp_path / "demo").glob("*_overlay.png"))) == len(paths)
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<article") == len(paths) and "Truth: " in page
    again = {path.name: path.read_bytes() for path in (tmp_path / "demo").iterdir()}
    assert main(words) == 0
    assert again == {path.name: path.read_bytes() for path in (tmp_path / "demo").iterdir()}


def test_ctrl_c_is_130_and_what_was_done_is_shown(capsys, scans, monkeypatch):
    real, calls = streaming.result_row, []

    def impatient(result):
        calls.append(result)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(result)

    monkeypatch.setattr(streaming, "result_row", impatient)
    status, out, err = run(capsys, "analyze", scans, "--json")
    assert status == 130 and "stopped" in err and "Traceback" not in err
    assert len(json.loads(out)) == 2  # still a whole list


def test_train_hands_over(capsys, monkeypatch):
    seen = []
    compact = SimpleNamespace(
        add_compact_arguments=lambda parser: parser.add_argument("--data", required=True),
        train_compact_from_args=lambda args: seen.append(args.data),
    )
    monkeypatch.setitem(sys.modules, "brain_tumor.compact.training", compact)
    monkeypatch.setattr("brain_tumor.compact.training", compact, raising=False)
    assert run(capsys, "train", "compact", "--data", "here")[0] == 0 and seen == ["here"]

    def no_tensorflow(args):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    compact.train_compact_from_args = no_tensorflow
    status, out, err = run(capsys, "train", "compact", "--data", "here")
    assert status == 2 and "tensorflow" in err and "brain_tumor[workbook]" in err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_no_console_is_too_old(scans, monkeypatch, encoding):
    odd = scans / "脳 é.png"
    (scans / "a.png").rename(odd)
    out, err = (TextIOWrapper(BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["analyze", str(odd), str(scans / "gone 脳.png"), "--spacing", "0.5"]) == 1
    out.flush()
    text = out.buffer.getvalue().decode(encoding)
    assert "0.24 cm²" in text or "0.24 cm2" in text
    assert ("0.24 cm2" in text) == (encoding == "ascii")


def test_printable_keeps_what_it_can():
    assert encodable_text("é²", "cp1252") == "é²" and encodable_text("é 脳²", "ascii") == "? ?2"


def outside(*words, **more):
    """The program itself, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(analysis.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=environment,
        encoding="utf-8",
        **more,
    )


def test_python_m_is_the_command():
    assert outside("-m", "brain_tumor", "--version").stdout == f"brain_tumor {__version__}\n"
    wrong = outside("-m", "brain_tumor", "analyze")
    assert wrong.returncode == 2 and "usage: brain_tumor" in wrong.stderr


PLUGGED = """
import sys, numpy as np
from types import SimpleNamespace as N
bright = lambda s: (s.pixels > .8).astype('f4')
engine = lambda s: N(probabilities=[1, 0, 0, 0], mask_probability=bright(s), threshold=.5)
sys.modules["brain_tumor.inference.engines"] = N(load_engine=lambda name: engine)
from brain_tumor.cli import main
status = main(sys.argv[1:])
heavy = ('tensorflow', 'keras', 'matplotlib', 'pandas', 'skimage', 'scipy', 'nibabel', 'pydicom',
         'PIL', 'tqdm')
print(*(m for m in heavy if m in sys.modules), file=sys.stderr)
sys.exit(status)
"""


def test_one_picture_loads_nothing_heavy(scans, tmp_path):
    done = outside(
        "-c",
        PLUGGED,
        "analyze",
        str(scans / "a.png"),
        "--spacing",
        "0.5",
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 0 and done.stderr.split() == [], done.stderr


def test_a_reader_that_leaves_gets_no_traceback(scans):
    for number in range(30):
        (scans / f"more{number}.png").write_bytes(png_bytes(picture(number)))
    environment = {**os.environ, "PYTHONPATH": str(Path(analysis.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", PLUGGED, "analyze", str(scans), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        process.stdout.close()
        error = process.stderr.read().decode(errors="replace")
    assert "Traceback" not in error and process.returncode not in (0, 1, 2), error


def test_a_stopped_run_is_resumed_and_only_what_is_new_is_printed(
    scans, tmp_path, capsys, monkeypatch
):
    out, real, calls = tmp_path / "out", streaming.result_row, []

    def impatient(result):
        calls.append(result)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(result)

    with monkeypatch.context() as patch:
        patch.setattr(streaming, "result_row", impatient)
        status, printed, errors = run(capsys, "analyze", scans, "--out", out, "--resume")
    assert (
        status == 130
        and "results.csv in" not in printed
        and f"the files of 2 scans are in {out}, without a table; repeat" in errors
    )
    assert (out / "results.csv.partial").is_file() and not (out / "results.csv").exists()
    status, printed, errors = run(capsys, "analyze", scans, "--out", out, "--resume")
    assert status == 0 and "2 scans were finished before" in errors
    assert (
        json.loads(run(capsys, "analyze", scans, "--json")[1])[2]["source"] in printed
        and printed.count("glioma") == 1
    )
    assert run(capsys, "analyze", scans, "--out", tmp_path / "whole")[0] == 0
    assert (out / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
    assert run(capsys, "analyze", scans, "--resume")[0] == 2


def test_workers_answer_as_one_process_does(scans, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "brain_tumor.inference.engines")
    (scans / "fake.png").write_text("no picture")
    one, two = (
        run(capsys, "analyze", scans, "--no-input-check"),
        run(capsys, "analyze", scans, "--no-input-check", "--workers", 1),
    )
    assert (
        one[:2] == two[:2]
        and one[0] == 1
        and one[2].count("refused") == two[2].count("refused") == 1
    )
    assert run(capsys, "analyze", scans, "--workers", 0)[0] == 2
    status, _, errors = run(capsys, "analyze", scans, "--workers", 1, "--segmenter", "other")
    assert status == 2 and "--workers" in errors and "--segmenter" in errors

"""The decoding process: same results, its limits, how it ends, and that no other file is lost."""

import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom, in_bytes
from errors import raises
from mutations import FORMATS, head, pillow, seeds
from PIL import Image

from brain_tumor.inference.analyze import analyze
from brain_tumor.io import read as decoder
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import BrainTumorError, ErrorCode

ROOT = Path(__file__).resolve().parent.parent
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps these limits")
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def tiff():
    return pillow(head(), "TIFF")


@pytest.fixture()
def fresh():
    """No decoding process is left from before, and none that was changed stays."""
    decoder._decoder_pool.close()
    yield decoder._decoder_pool
    decoder._decoder_pool.close()


@pytest.fixture()
def children(monkeypatch, fresh):
    """The decoding processes that were started."""
    started, real = [], decoder.DecoderProcess

    def child():
        started.append(real())
        return started[-1]

    monkeypatch.setattr(decoder, "DecoderProcess", child)
    return started


@pytest.fixture()
def faulty(monkeypatch, fresh):
    """Put a fault into the decoder of pictures, in the children alone."""
    plain = decoder.START_CODE

    def put(code):
        fresh.close()
        patch = (
            "import os, sys, brain_tumor.io.decode as s, brain_tumor.io.read as d; "
            f"real = s._decode_image; s._decode_image = lambda *a: {code}; serve"
        )
        monkeypatch.setattr(decoder, "START_CODE", plain.replace("; serve", f"; {patch}"))

    return put


def rejection(source, read=decoder.read, **options):
    """The error that reading raises: message, code, counts."""
    with pytest.raises(BrainTumorError) as caught:
        read(source, **options)
    return str(caught.value), caught.value.code, caught.value.count, caught.value.volumes


def failed(source, *parts):
    """Decoding must fail in the decoding process; the message contains these numbers or names."""
    message, code, _, _ = rejection(source)
    assert code == ErrorCode.DECODER_FAILED, message
    assert not [part for part in parts if part not in message], message


def python(code, *words, **options):
    """Run a script with this tree's package."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize("kind", FORMATS)
def test_every_seed_is_read_to_the_bit_as_in_this_process(kind):
    for data in seeds(kind):
        for options in (
            {},
            {"slice": 0},
            {"slice": 1},
            {"slice": np.int64(1)},
            {"slice": 99},
            {"slice": True},
            {"slice": (1, 0)},
            {"slice": "x"},
            {"axis": 1},
            {"spacing": 0.7},
            {"slice": 0, "spacing": (0.5, 0.7)},
            {"spacing": -1},
        ):
            local, isolated = [
                _try(read, data, options) for read in (read_in_process, decoder.read)
            ]
            assert local == isolated


def _try(read, data, options):
    try:
        got = read(data, **options)
    except BrainTumorError as error:
        return str(error), error.code, error.count, error.volumes
    affine = None if got.affine is None else got.affine.tobytes()
    return (
        got.pixels.tobytes(),
        got.pixels.dtype,
        got.pixels.shape,
        got.spacing,
        got.source,
        got.spacing_source,
        got.format,
        got.sha256,
        got.slice_index,
        got.axis,
        affine,
    )


def test_paths_file_objects_and_arrays(tmp_path, tiff):
    (tmp_path / "scan.tif").write_bytes(tiff)
    for source in (
        tmp_path / "scan.tif",
        str(tmp_path / "scan.tif"),
        tiff,
        bytearray(tiff),
        memoryview(tiff),
    ):
        assert _try(decoder.read, source, {}) == _try(read_in_process, source, {})
    assert decoder.read(io.BytesIO(tiff)).sha256 == read_in_process(tiff).sha256
    for source in (head(), Image.fromarray(head()), dicom(head()), read_in_process(tiff)):
        assert _try(decoder.read, source, {}) == _try(read_in_process, source, {})
    assert rejection(tmp_path / "none.tif") == rejection(tmp_path / "none.tif", read_in_process)


def test_an_invalid_spacing_is_rejected_and_can_be_overridden():
    for pair in ([0, 0], [-0.5, 0.5]):
        data = in_bytes(dicom(head(), PixelSpacing=pair))
        assert rejection(data)[1] == ErrorCode.SPACING_INVALID
        assert decoder.read(data, spacing=0.5).spacing == (0.5, 0.5)


def test_what_needs_no_isolation_starts_no_process(children, tmp_path):
    for source in (
        head(),
        Image.fromarray(head()),
        dicom(head()),
        pillow(head(), "PNG"),
        pillow(head(), "JPEG"),
        *seeds("NIfTI")[:1],
    ):
        decoder.read(source, slice=None if source is not seeds("NIfTI")[0] else 1)
    assert children == []


def test_it_can_be_switched_off(monkeypatch, children, tiff):
    monkeypatch.setenv("BRAIN_TUMOR_ISOLATE", "0")
    decoder.read(tiff)
    assert children == []
    monkeypatch.setenv("BRAIN_TUMOR_ISOLATE", "1")
    decoder.read(tiff)
    assert len(children) == 1


def test_analyze_and_the_page_use_it(monkeypatch, children, tmp_path, tiff):
    from brain_tumor.app.session import open_file

    (tmp_path / "scan.tif").write_bytes(tiff)
    assert analyze(tmp_path / "scan.tif").scan.format == "TIFF" and len(children) == 1
    assert open_file(tmp_path / "scan.tif").error is None and children[0].files == 2


# ---------------------------------------------------------------- one process, many files


def test_a_process_is_kept_and_after_many_files_another_takes_over(monkeypatch, children, tiff):
    monkeypatch.setattr(decoder, "FILES_PER_PROCESS", 5)
    for _ in range(12):
        decoder.read(tiff)
    assert [child.files for child in children] == [5, 5, 2]
    assert [child.process.poll() is None for child in children] == [False, False, True]


def test_a_refused_file_costs_no_process(children, tiff):
    for _ in range(5):
        assert rejection(tiff[:500])[1] == ErrorCode.FILE_UNREADABLE
        decoder.read(tiff)
    assert len(children) == 1


def test_threads_read_at_once_each_its_own(children):
    files = [pillow(np.roll(head(), k, axis=1), "TIFF") for k in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decoder.read, files))
    for got, data in zip(found, files, strict=True):
        assert np.array_equal(got.pixels, read_in_process(data).pixels)
    assert len(children) <= decoder.MAX_PROCESSES


@POSIX
def test_a_fork_leaves_the_parents_process_alone(children, tiff):
    other = pillow(255 - head(), "TIFF")
    first = decoder.read(tiff)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child reports one byte
        try:
            same = np.array_equal(decoder.read(other).pixels, read_in_process(other).pixels)
            own = decoder._decoder_pool.all.isdisjoint(children[:1])
            os.write(write_end, b"y" if same and own else b"n")
            decoder._decoder_pool.close()
        finally:
            os._exit(0)
    os.close(write_end)
    assert os.read(read_end, 1) == b"y"
    os.waitpid(pid, 0)
    os.close(read_end)
    assert np.array_equal(decoder.read(tiff).pixels, first.pixels) and len(children) == 1


@pytest.mark.parametrize("how", multiprocessing.get_all_start_methods())
def test_pools_of_processes(how, tiff):
    decoder.read(tiff)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:
        found = list(pool.map(decoder.read, [tiff] * 6))
    assert {got.sha256 for got in found} == {read_in_process(tiff).sha256}


def test_a_script_without_a_guard(tmp_path, tiff):
    (tmp_path / "scan.tif").write_bytes(tiff)
    done = python(
        "import sys; print('once'); from brain_tumor.io.read import read; "
        "print(read(sys.argv[1]).format)",
        tmp_path / "scan.tif",
    )
    assert done.returncode == 0 and done.stdout == "once\nTIFF\n" and done.stderr == ""


def gone(pid):
    """Whether a process has ended; asked for as long as it takes, within a minute."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@LINUX
@pytest.mark.parametrize("end", ["pass", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_it_ends_with_the_program_that_asked(tmp_path, tiff, end):
    (tmp_path / "scan.tif").write_bytes(tiff)
    done = python(
        "import os, sys; from brain_tumor.io import read as d; d.read(sys.argv[1]); "
        f"print([c.process.pid for c in d._decoder_pool.all][0], flush=True); {end}",
        tmp_path / "scan.tif",
    )
    assert gone(int(done.stdout))


@LINUX
def test_it_needs_no_working_folder_and_no_path(tmp_path, tiff):
    (tmp_path / "scan.tif").write_bytes(tiff)
    (tmp_path / "tifffile.py").write_text("raise SystemExit('planted')")
    (tmp_path / "PIL.py").write_text("raise SystemExit('planted')")
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from brain_tumor.io.read import read; print(read('scan.tif').format)",
        ],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "TIFF\n", done.stderr


# ---------------------------------------------------------------- how it dies


@pytest.mark.parametrize(
    "code",
    [
        "os.abort()",
        "os.kill(os.getpid(), 11)",
        "os._exit(7)",
        pytest.param("__import__('ctypes').string_at(0)", marks=POSIX),
    ],
)
def test_a_crash_refuses_one_file_and_the_next_is_read(faulty, tmp_path, tiff, code):
    for name in ("a.tif", "b.tif", "c.tif"):
        (tmp_path / name).write_bytes(tiff)
    (tmp_path / "a.tif").write_bytes(tiff + b"bad")
    faulty(f"{code} if a[0].endswith(b'bad') else real(*a)")
    failed(tmp_path / "a.tif", "a.tif")
    found = list(analyze(tmp_path, progress=False))
    assert [result.status == "refused" for result in found] == [True, False, False]
    assert "a.tif" in found[0].error and str(tmp_path) not in found[0].error
    assert {result.scan.sha256 for result in found[1:]} == {read_in_process(tiff).sha256}


@LINUX
def test_time_of_the_processor_is_limited(monkeypatch, faulty, tiff):
    monkeypatch.setattr(decoder, "CPU_LIMIT", 1)
    faulty("[0 for _ in iter(int, 1)]")
    failed(tiff, "1 seconds")


def test_time_by_the_clock_is_limited(monkeypatch, faulty, tiff):
    monkeypatch.setattr(decoder, "TIME_LIMIT", 0.5)
    faulty("__import__('time').sleep(9e5)")
    failed(tiff, "0.5 seconds")


@LINUX
def test_each_file_has_its_own_time(monkeypatch, children, faulty, tiff):
    """Three files that take more than half the time each: the limit is per file."""
    monkeypatch.setattr(decoder, "CPU_LIMIT", 2)
    faulty(
        "[0 for _ in iter(lambda t=__import__('time').process_time() + 1.2: "
        "__import__('time').process_time() > t, True)] and None or real(*a)"
    )
    for _ in range(3):
        decoder.read(tiff)
    assert len(children) == 1


@LINUX
def test_memory_is_limited(faulty, tiff):
    faulty("bytearray(1 << 36)")
    failed(tiff, "4 GB")


@LINUX
def test_no_file_can_be_written(faulty, tmp_path, tiff):
    faulty(f"open({str(tmp_path / 'stolen')!r}, 'wb', buffering=0).write(b'x' * 100)")
    rejection(tiff)
    assert not (tmp_path / "stolen").exists() or (tmp_path / "stolen").stat().st_size == 0


@LINUX
def test_the_limits_cannot_be_raised_again(faulty, tiff):
    """The hard ones are as low, for the second file as for the first; only time is given anew."""
    faulty(
        "real(*a) if [__import__('resource').getrlimit(kind) for kind in (1, 4, 9)] == "
        "[(0, 0), (0, 0), (4 << 30, 4 << 30)] else os._exit(5)"
    )
    for _ in range(2):
        assert decoder.read(tiff).format == "TIFF"


def test_it_does_not_inherit_what_stands_in_the_environment(monkeypatch, faulty, tiff):
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    faulty(
        "real(*a) if 'PATH' in os.environ and "
        "not {'DATABASE_PASSWORD', 'PYTHONPATH'} & set(os.environ) else os._exit(5)"
    )
    assert decoder.read(tiff).format == "TIFF"


@LINUX
def test_a_file_is_not_refused_for_what_others_left_behind(children, faulty, tiff):
    """Some decoders leak memory at each damaged file: a new process then decodes the file."""
    for loss in ("bytearray(1 << 36)", "os._exit(1)"):
        children.clear()
        faulty(
            "real(*a) if not vars(s).setdefault('before', []).append(1) "
            f"and len(s.before) < 4 else {loss}"
        )
        for _ in range(7):
            decoder.read(tiff)
        assert [child.files for child in children] == [4, 4, 1]
        faulty(loss)
        children.clear()
        failed(tiff)
        assert len(children) == 1  # what a new process reports is final


def test_ended_from_outside_while_it_waits(children, tiff):
    decoder.read(tiff)
    children[0].process.kill()
    children[0].process.wait()
    decoder.read(tiff)
    assert len(children) == 2


def test_interrupted_in_the_middle(monkeypatch, children, tiff):
    """After Ctrl+C the answer must not come to the next question."""
    other = pillow(255 - head(), "TIFF")
    decoder.read(tiff)
    real = decoder.receive_frame
    monkeypatch.setattr(
        decoder, "receive_frame", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        decoder.read(tiff)
    monkeypatch.setattr(decoder, "receive_frame", real)
    assert (
        np.array_equal(decoder.read(other).pixels, read_in_process(other).pixels)
        and len(children) == 2
    )


def test_no_process_can_be_started(monkeypatch, fresh, tiff):
    monkeypatch.setattr(sys, "executable", str(ROOT / "no-python-here"))
    failed(tiff, "BRAIN_TUMOR_ISOLATE=0")


@LINUX
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"x" * 11,
        b"x" * 200,
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 2, 0) + b"{}",
        struct.pack(">IQ", 4, 1 << 60) + b"null",
        struct.pack(">IQ", 1 << 31, 0),
        struct.pack(">IQ", 3, 0) + b"\xff\xff\xff",
        struct.pack(">IQ", 13, 0) + b'{"error": 12}',
        struct.pack(">IQ", 20000, 0) + b"[" * 20000,
    ],
)
def test_a_process_that_was_taken_over_can_only_lie(faulty, tiff, answer):
    faulty(
        "os.write([n for n in range(3, 9) if os.path.exists(f'/proc/self/fd/{n}') "
        "and 'pipe' in os.readlink(f'/proc/self/fd/{n}')][-1], "
        f"{answer!r}) and None or os._exit(0)"
    )
    failed(tiff)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [1 << 70, 64]},
        {"spacing": [10**400, 1]},
        {"colour": 10**400},
        {"slice": True},
        {"slice": "0"},
        {"format": []},
        {"shape": [64, True]},
        {"shape": [2, 2048]},
        {"colour": None},
    ],
)
def test_numbers_that_are_none_are_no_picture(lie):
    """A whole number of four hundred digits is good JSON."""
    grey = np.linspace(0, 1, 64 * 64, dtype=np.float32)
    reply = {"shape": [64, 64], "format": "TIFF", "spacing": None, "slice": 0, "colour": 0.0}
    assert decoder._validate_reply(reply, bytearray(grey), "a.tif")[0].slice_index == 0
    with raises(ErrorCode.DECODER_FAILED, "a.tif"):
        decoder._validate_reply(json.loads(json.dumps(reply | lie)), bytearray(grey), "a.tif")


def test_the_error_it_reports_is_checked():
    for text in ("x" * 5000, "two\nlines", 7, None, ["a"]):
        error = decoder._child_error({"error": text, "code": "too_large"}, "a.tif")
        assert error.code == ErrorCode.DECODER_FAILED and str(text)[:50] not in str(error)[:50]
    facts = {"error": "a.tif: it holds 3 pictures. Name one.", "count": "3", "volumes": 2}
    error = decoder._child_error(facts, "a.tif")
    assert error.count is None and error.volumes == 2
    for code, known in (
        ("selection_needed", ErrorCode.SELECTION_NEEDED),
        ("made up", ErrorCode.DECODER_FAILED),
        (None, ErrorCode.DECODER_FAILED),
        (["x"], ErrorCode.DECODER_FAILED),
        ({"a": 1}, ErrorCode.DECODER_FAILED),
    ):
        assert decoder._child_error(facts | {"code": code}, "a.tif").code == known


def test_libraries_that_print_do_not_get_between_the_frames(faulty, capfd, tiff):
    faulty("(print('x' * 99), os.write(1, b'y' * 99), os.write(2, b'z' * 99)) and real(*a)")
    assert decoder.read(tiff).format == "TIFF"
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- bombs


def directory(tags, following):
    """One table of a little-endian TIFF: tags by number, each (type, value)."""
    entries = [
        struct.pack("<HHIHH", tag, 3, 1, value, 0)
        if kind == 3
        else struct.pack("<HHII", tag, 4, 1, value)
        for tag, (kind, value) in sorted(tags.items())
    ]
    return struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", following)


def many_pages(count):
    """A TIFF of so many pages, all of the same pixels."""
    tags = {
        256: (3, 64),
        257: (3, 64),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (4, 8),
        277: (3, 1),
        278: (3, 64),
        279: (4, 4096),
    }
    size, start = len(directory(tags, 0)), 8 + 4096
    pages = [directory(tags, start + (k + 1) * size if k < count - 1 else 0) for k in range(count)]
    return b"II*\0" + struct.pack("<I", start) + head().tobytes() + b"".join(pages)


@LINUX
def test_a_tiff_whose_pages_take_forever_to_count(monkeypatch, fresh):
    """Eleven megabytes, a minute of Pillow's time: it walks the whole chain for each page."""
    monkeypatch.setattr(decoder, "CPU_LIMIT", 2)
    failed(many_pages(100_000), "2 seconds")
    message, code, count, _ = rejection(many_pages(10))
    assert (code, count) == (ErrorCode.SELECTION_NEEDED, 10), message


@LINUX
def test_a_tiff_of_one_tile_that_is_far_larger_than_the_picture(monkeypatch, fresh):
    """A file of one kilobyte: 64 x 64 pixels in a tile of 30,000 x 30,000, 900 MB."""
    monkeypatch.setattr(decoder, "MEMORY_LIMIT", 1 << 30)
    body = zlib.compress(bytes(1 << 20))
    tags = {
        256: (4, 64),
        257: (4, 64),
        258: (3, 8),
        259: (3, 8),
        262: (3, 1),
        277: (3, 1),
        322: (4, 30_000),
        323: (4, 30_000),
        324: (4, 8),
        325: (4, len(body)),
    }
    data = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory(tags, 0)
    rejection(data)  # by libtiff, which did not get the memory
    assert len(data) < 2000 and decoder._decoder_pool.all
    for child in decoder._decoder_pool.all:
        status = Path(f"/proc/{child.process.pid}/status").read_text()
        assert int(status.split("VmPeak:")[1].split()[0]) <= 1 << 20  # kB


@LINUX
def test_a_deflated_dicom_bomb(monkeypatch, fresh):
    """Three hundred megabytes of zeros, unpacked and copied."""
    whole = in_bytes(dicom(head(), syntax="1.2.840.10008.1.2.1.99"))
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 24)) for _ in range(20)) + packer.flush()
    monkeypatch.setattr(decoder, "MEMORY_LIMIT", 1 << 30)
    assert len(body) < 1_000_000
    failed(whole[:start] + body, "1 GB")


def test_frames_go_both_ways():
    pipe = io.BytesIO()
    decoder.send_frame(
        pipe, {"a": [1, None, "ü\udc80"]}, np.arange(6, dtype=np.float32).reshape(2, 3)
    )
    pipe.seek(0)
    header, body = decoder.receive_frame(pipe, 100)
    assert header == {"a": [1, None, "ü\udc80"]} and np.frombuffer(body, np.float32).tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    json.dumps(header)


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_colour_comes_back_with_the_pixels(form):
    """The input check uses it: isolated decoding gives the same colourfulness."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    picture[..., 0] //= 4
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    isolated, local = decoder.read(file.getvalue()), read_in_process(file.getvalue())
    assert isolated.colour == local.colour > 0.2

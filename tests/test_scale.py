"""Many workers: the same results as one process, whatever becomes of a worker or a run."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from errors import raises
from jobs import kill_after

from brain_tumor.imaging.samples import samples
from brain_tumor.inference import streaming, workers
from brain_tumor.inference.analyze import analyze
from brain_tumor.inference.engines import CompactEngine
from brain_tumor.inference.result import RESULT_COLUMNS
from brain_tumor.inference.resume import Journal, complete_lines
from brain_tumor.inference.workers import map_groups, process_pool
from brain_tumor.io.decode import read_in_process
from brain_tumor.io.errors import BrainTumorError, ErrorCode
from brain_tumor.io.files import MODELS
from brain_tumor.io.pages import png_bytes
from brain_tumor.io.scan import CLASSES

ROOT = Path(__file__).resolve().parent.parent
STATUS = RESULT_COLUMNS.index("status")
NUMBERS = [
    place
    for place, name in enumerate(RESULT_COLUMNS)
    if name.startswith("p_") or name == "confidence"
]


# ---------------------------------------------------------------- engines that travel


def bright(scan):
    """Calls the brightest pixels a glioma."""
    odds = np.where(np.array(CLASSES) == "glioma", 0.94, 0.02)
    return SimpleNamespace(
        probabilities=odds, mask_probability=(scan.pixels > 0.8).astype(np.float32), threshold=0.5
    )


def deadly(scan):
    """The same, but a scan of one size ends the process."""
    if scan.pixels.shape[0] == 80:
        os._exit(1)
    return bright(scan)


@dataclass(frozen=True)
class HeldOnce:
    """The first process that meets the large scan writes down who it is, and stays there."""

    flag: Path

    def __call__(self, scan):
        if scan.pixels.shape[0] == 80 and not self.flag.is_file():
            self.flag.write_text(str(os.getpid()))
            time.sleep(600)
        return bright(scan)


@dataclass(frozen=True)
class Unlucky:
    """The large scan ends the first three processes that meet it."""

    tally: Path

    def __call__(self, scan):
        if scan.pixels.shape[0] == 80 and (
            not self.tally.is_file() or self.tally.stat().st_size < 3
        ):
            with open(self.tally, "a") as stream:
                stream.write("x")
            os._exit(1)
        return bright(scan)


class Fussy(Exception):
    """Wants two words, and would be unpacked with one."""

    def __init__(self, name, why):
        super().__init__(f"{name}: {why}")


def fussy(scan):
    raise Fussy(scan.source, "no")


def picture(number, size=64):
    values = np.full((size, size), 60, np.uint8)
    row, column = 4 + number % 40, 4 + number // 40 % 40
    values[row : row + 8, column : column + 12] = 255
    return values


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(values))
    return path


@pytest.fixture
def archive(tmp_path):
    """Twenty pictures, two of the same name, a text and a torn picture among them."""
    folder = tmp_path / "archive"
    for number in range(20):
        write(
            folder / ("deep" if number % 5 == 0 else ".") / f"{number % 19:02}.png", picture(number)
        )
    (folder / "07a.png").write_text("no picture")
    (folder / "11a.png").write_bytes((folder / "11.png").read_bytes()[:90])
    return folder


# ---------------------------------------------------------------- executors


@pytest.fixture(scope="module")
def cluster():
    """Two workers in processes of their own, known to Dask."""
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install -e .[dev]")
    import dask

    with dask.config.set(
        {"distributed.scheduler.allowed-failures": 1, "distributed.worker.daemon": True}
    ):
        with distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=50,
        ) as cluster:
            yield cluster


@pytest.fixture
def client(cluster):
    import distributed

    with distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture(scope="module")
def pool():
    """Two processes that nobody kills."""
    with process_pool(2) as pool:
        yield pool


@pytest.fixture(params=["threads", "processes", "dask"])
def executor(request):
    if request.param == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield executor
    else:
        yield (
            request.getfixturevalue("client").get_executor()
            if request.param == "dask"
            else request.getfixturevalue("pool")
        )


def many(source, **options):
    return analyze(source, progress=False, batch_size=3, **{"engine": bright, **options})


# ---------------------------------------------------------------- the same answers


def test_rows_pixels_and_files_are_those_of_one_process(archive, tmp_path, executor):
    alone = many(archive)
    results = list(alone)
    assert [values[STATUS] for values in alone.rows].count("refused") == 2
    assert many(archive, executor=executor).all_rows() == alone.rows, (
        "the refused ones are refused one by one, in the same words"
    )
    for one, other in zip(results, many(archive, executor=executor), strict=True):
        assert (one.source, one.path, one.error, one.files) == (
            other.source,
            other.path,
            other.error,
            other.files,
        )
        assert (
            one.scan is None
            or np.array_equal(one.mask, other.mask)
            and np.array_equal(one.scan.pixels, other.scan.pixels)
        )
        assert one.scan is None or other.explainer is not None
    here, there = (
        many(archive).save(tmp_path / "here"),
        many(archive, executor=executor).save(tmp_path / "there"),
    )
    assert sorted(path.name for path in here.iterdir()) == sorted(
        path.name for path in there.iterdir()
    )
    assert all((there / path.name).read_bytes() == path.read_bytes() for path in here.iterdir())
    assert len(list(here.iterdir())) == 20 * 3 + 2 + 1


def test_everything_that_can_be_read_can_travel(tmp_path, pool):
    from PIL import Image

    values, path = picture(3), write(tmp_path / "a.png", picture(3))
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        values,
        values / 255,
        read_in_process(path, spacing=0.5),
        Image.fromarray(values),
        None,
    ]
    alone = many([*kinds, open(path, "rb")]).all_rows()
    assert many([*kinds, open(path, "rb")], executor=pool).all_rows() == alone
    assert [values[STATUS] for values in alone] == ["ok"] * 8 + ["refused", "ok"]


def test_the_shipped_network_says_the_same_in_processes(pool):
    sources = [*samples(), *samples()[:3]]
    one = analyze(sources, progress=False, check_input=False).all_rows()
    two = analyze(
        sources, progress=False, executor=pool, batch_size=4, check_input=False
    ).all_rows()
    explained = list(analyze(sources[:2], progress=False, executor=pool, check_input=False))[
        1
    ].explain()
    words = lambda rows: [
        [value for place, value in enumerate(values) if place not in NUMBERS] for values in rows
    ]
    numbers = lambda rows: np.array([[values[place] for place in NUMBERS] for values in rows])
    assert words(one) == words(two) and np.allclose(numbers(one), numbers(two), atol=1e-6)
    assert explained.heat.shape == explained.scan.pixels.shape


def test_rows_travel_without_pixels(archive, monkeypatch):
    came, collect = [], streaming.collect_result
    monkeypatch.setattr(
        streaming,
        "collect_result",
        lambda answer, *more: came.append(answer) or collect(answer, *more),
    )
    with ThreadPoolExecutor(2) as pool:
        many(archive, executor=pool).to_frame()
        assert len(came) == 22 and max(len(pickle.dumps(answer)) for answer in came) < 3000
        list(many(archive, executor=pool))
        assert len(pickle.dumps(came[22])) > 64 * 64 * 4


def test_a_generator_is_read_only_a_little_ahead():
    taken = []
    sources = (taken.append(number) or picture(number) for number in range(2000))
    with ThreadPoolExecutor(2) as pool:
        for count, result in enumerate(many(sources, executor=pool), 1):
            assert len(taken) <= count + 2 * 2 * 3 and np.array_equal(
                result.mask, picture(count - 1) == 255
            )
            if count == 60:
                break
    assert len(taken) < 80


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_is_not_the_end_of_a_generator(threads):
    def sources():
        yield from (picture(number) for number in range(20))
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        batch = many(sources(), executor=pool if threads else None)
        with pytest.raises(KeyboardInterrupt):
            batch.to_frame()
        for ask in (batch.to_frame, lambda: next(iter(batch))):
            with raises(ErrorCode.RESUME_MISMATCH, "KeyboardInterrupt"):
                ask()
    assert not batch.complete


# ---------------------------------------------------------------- workers that die


def test_a_scan_that_kills_is_refused_by_name_and_the_others_come_through(tmp_path, client):
    sources = [
        write(tmp_path / f"{number}.png", picture(number, 80 if number == 4 else 64))
        for number in range(12)
    ]
    alone = many([path for path in sources if path.name != "4.png"]).all_rows()
    for name in ("processes", "dask"):
        with process_pool(2) as pool:
            rows = many(
                sources,
                engine=deadly,
                executor=pool if name == "processes" else client.get_executor(),
            ).all_rows()
        assert [values[STATUS] for values in rows] == [
            "refused" if number == 4 else "ok" for number in range(12)
        ], name
        assert rows[4][RESULT_COLUMNS.index("error")].startswith("4.png: ")
        assert [values[2:10] for values in rows[:4] + rows[5:]] == [
            values[2:10] for values in alone
        ]


def kill_holder(flag):
    while not (flag.is_file() and flag.read_text()):
        time.sleep(0.02)
    os.kill(int(flag.read_text()), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_worker_killed_with_a_scan_in_its_hands_loses_nothing(tmp_path, client, name):
    sources = [picture(number, 80 if number == 7 else 64) for number in range(22)]
    engine = HeldOnce(tmp_path / "flag")
    killer = threading.Thread(target=kill_holder, args=(engine.flag,), daemon=True)
    killer.start()
    with process_pool(2) as pool:
        rows = many(
            sources, engine=engine, executor=pool if name == "processes" else client.get_executor()
        ).all_rows()
    assert not killer.is_alive() and rows == many(sources, engine=engine).all_rows()


def test_a_scan_that_is_lost_with_others_and_once_alone_is_not_given_up(tmp_path):
    engine = Unlucky(tmp_path / "tally")
    with process_pool(2) as pool:
        rows = many(
            [picture(number, 80 if number == 4 else 64) for number in range(9)],
            engine=engine,
            executor=pool,
        ).all_rows()
    assert [values[STATUS] for values in rows] == ["ok"] * 9 and engine.tally.read_text() == "xxx"


@dataclass(frozen=True)
class Noting:
    """Squares numbers, notes the groups it is given, and ends its process at 13."""

    folder: Path

    def __call__(self, group):
        with open(self.folder / f"{os.getpid()}", "a") as stream:
            stream.write(f"{len(group)} {13 in group}\n")
        if 13 in group:
            os._exit(1)
        return [number * number for number in group]


def test_only_the_group_of_what_kills_is_taken_apart(tmp_path):
    with process_pool(2) as pool:
        found = list(
            map_groups(
                Noting(tmp_path), range(40), pool, size=4, give_up=lambda number, problem: None
            )
        )
    assert found == [number * number if number != 13 else None for number in range(40)]
    notes = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert notes.count("4 True") == 2 and notes.count("1 True") == 2 and notes.count("1 False") == 3


def test_a_pool_that_a_scan_broke_serves_the_next_batch(archive):
    with process_pool(1) as pool:
        assert (
            many([picture(1, 80)], engine=deadly, executor=pool).all_rows()[0][STATUS] == "refused"
        )
        assert many(archive, executor=pool).all_rows() == many(archive).all_rows()


def test_an_error_that_cannot_travel_is_told_and_is_no_dead_worker(archive):
    with process_pool(1) as pool, pytest.raises(RuntimeError, match=r"Fussy: .*\.png: no"):
        many(archive, engine=fussy, executor=pool).to_frame()
    with ThreadPoolExecutor(1) as pool, pytest.raises(Fussy):
        many(archive, engine=fussy, executor=pool).to_frame()


def test_a_broken_pool_from_the_start_and_one_that_cannot_live(tmp_path):
    with process_pool(1) as pool:
        with raises(ErrorCode.WORKER_LOST):
            workers.try_worker(pool, os._exit, 1)
    with process_pool(1) as pool:
        with raises(ErrorCode.WORKER_LOST):
            list(map_groups(Hopeless(), range(5), pool))


class Hopeless:
    def __call__(self, group):
        os._exit(1)


def test_work_that_goes_wrong_is_no_dead_worker(archive, pool):
    with pytest.raises(ZeroDivisionError):
        many(archive, engine=buggy, executor=pool).to_frame()


def buggy(scan):
    return 1 / 0


# ---- executors and workers that cannot be used


def test_an_executor_that_is_shut_down_is_said_at_once_and_keeps_what_is_done(archive, tmp_path):
    pool = ThreadPoolExecutor(2)
    batch = many(archive, executor=pool)
    with raises(ErrorCode.WORKER_LOST):
        for count, _ in enumerate(batch.results(resume=tmp_path / "t.csv")):
            if count == 1:
                pool.shutdown(wait=False)
    assert 2 <= len(batch.rows) < 22 and not (tmp_path / "t.csv").exists()
    done = len(complete_lines(tmp_path / "t.csv.partial")) - 1
    assert done == len(batch.rows)
    with raises(ErrorCode.WORKER_LOST):
        many(archive, executor=pool).to_frame()
    whole = many(archive).to_csv(tmp_path / "whole.csv")
    assert len(list(many(archive).results(resume=tmp_path / "t.csv"))) == 22 - done
    assert (tmp_path / "t.csv").read_bytes() == whole.read_bytes()


def test_a_closed_client_is_said_and_not_waited_for(archive, cluster):
    import distributed

    client = distributed.Client(cluster)
    batch = many(archive, executor=client.get_executor())
    with raises(ErrorCode.WORKER_LOST):
        for count, _ in enumerate(batch):
            if count == 1:
                client.close()
    assert 2 <= len(batch.rows) < 22
    with raises(ErrorCode.WORKER_LOST):
        batch.to_frame()


def test_a_generator_whose_executor_failed_is_not_called_complete():
    pool = ThreadPoolExecutor(1)
    batch = many((picture(number) for number in range(40)), executor=pool)
    with raises(ErrorCode.WORKER_LOST):
        for _ in batch:
            pool.shutdown(wait=False)
    with raises(ErrorCode.RESUME_MISMATCH):
        batch.to_frame()
    assert not batch.complete


def test_a_worker_without_the_model_or_with_another_says_so(archive, tmp_path, client, pool):
    import json

    newer, tuned, gone = (
        shutil.copytree(MODELS / "compact", tmp_path / name) for name in ("newer", "tuned", "gone")
    )
    for place in (newer, tuned, gone):
        analyze(archive / "01.png", engine=place)  # they run here
    for place, change in ((newer, {"version": "other"}), (tuned, {"threshold": 0.4})):
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        (place / "manifest.json").write_text(json.dumps(manifest | change), encoding="utf-8")
    shutil.rmtree(gone)
    with pytest.raises(BrainTumorError) as missing:
        CompactEngine(gone)
    gone_code = missing.value.code  # a worker says what this process would say
    for executor in (client.get_executor(), pool):
        for place, words in (
            (newer, "version other instead of"),
            (tuned, "threshold 0.4 instead of 0.3"),
        ):
            with raises(ErrorCode.MODEL_INVALID, words):
                many(archive, engine=place, executor=executor).to_frame()
        with raises(gone_code, "gone"):
            many(archive, engine=gone, executor=executor).to_frame()


def test_another_version_and_none_at_all(monkeypatch, archive):
    with ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "__version__", "9.9")
            with raises(ErrorCode.DEPENDENCY_MISSING, "9.9"):
                many(archive, executor=pool).to_frame()
        with monkeypatch.context() as patch:
            patch.setattr(workers, "resolve_name", lambda name: __import__("brain_tumour"))
            with raises(ErrorCode.DEPENDENCY_MISSING, "brain_tumour"):
                many(archive, executor=pool).to_frame()


def test_an_engine_that_cannot_travel_and_things_that_are_no_executors(archive, pool):
    with raises(ErrorCode.ARGUMENT_INVALID, "lambda"):
        many(archive, engine=lambda scan: bright(scan), executor=pool).to_frame()
    for wrong in (4, "dask", object()):
        with raises(ErrorCode.ARGUMENT_INVALID, "submit"):
            many(archive, executor=wrong)
    for wrong in (0, "4", 1.5):
        with raises(ErrorCode.ARGUMENT_INVALID, repr(wrong)):
            process_pool(wrong)


def test_windows_takes_no_more_processes_than_it_can_wait_for(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with raises(ErrorCode.ARGUMENT_INVALID, 64, 61):
        process_pool(64)


@pytest.mark.skipif(
    "fork" not in __import__("multiprocessing").get_all_start_methods(),
    reason="this system copies no processes",
)
def test_copied_processes_are_refused(archive):
    from multiprocessing import get_context

    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool,
        raises(ErrorCode.ARGUMENT_INVALID, "fork"),
    ):
        many(archive, executor=pool).to_frame()


# ---------------------------------------------------------------- going on

KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = {tests!r}
import test_scale
plain, flag, count = test_scale.bright, Path({flag!r}), 0

def bright(scan):
    global count
    count += 1
    if count == 12:
        flag.touch()
        time.sleep(600)
    return plain(scan)

from brain_tumor import analyze
batch = analyze({archive!r}, engine=bright, progress=False, batch_size=3)
batch.{how}
"""


def begun(archive, tmp_path, how):
    """A process that is killed while it asks about its twelfth scan."""
    flag = tmp_path / "flag"
    tests = [str(ROOT), str(ROOT / "tests")]
    code = KILLED.format(tests=tests, flag=str(flag), archive=str(archive), how=how)
    kill_after(
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE), flag
    )
    assert flag.is_file()


def test_a_killed_run_is_gone_on_with_from_its_table(archive, tmp_path):
    whole = many(archive).to_csv(tmp_path / "whole.csv")
    table = tmp_path / "t.csv"
    begun(archive, tmp_path, f"to_csv({str(table)!r}, resume=True)")
    assert not table.exists()
    done = len(complete_lines(tmp_path / "t.csv.partial")) - 1
    assert 3 <= done < 22
    with open(tmp_path / "t.csv.partial", "a", encoding="utf-8") as stream:
        stream.write("deep/torn.png,ok,gli")
    asked = []
    batch = analyze(archive, engine=listening(asked), progress=False, batch_size=3)
    batch.to_csv(table, resume=True)
    assert len(asked) == 20 - len(
        [values for values in batch.rows[:done] if values[STATUS] != "refused"]
    )
    assert table.read_bytes() == whole.read_bytes() and not (tmp_path / "t.csv.partial").exists()
    assert batch.rows == many(archive).all_rows() and len(batch.to_frame()) == 22


def listening(asked):
    def bright_(scan):
        asked.append(scan.source)
        return bright(scan)

    bright_.__name__ = "bright"
    return bright_


def test_saved_files_of_a_killed_run_keep_their_names(archive, tmp_path):
    whole = many(archive).save(tmp_path / "whole")
    out = tmp_path / "out"
    begun(archive, tmp_path, f"save({str(out)!r}, resume=True)")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    with ThreadPoolExecutor(2) as pool:
        many(archive, executor=pool).save(out, resume=True)
    names = [
        path.name for path in out.iterdir() if not path.name.startswith(".")
    ]  # a file may have been in the killed one's hands
    assert sorted(names) == sorted(path.name for path in whole.iterdir())
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())
    kept = [name for name, time in before.items() if (out / name).stat().st_mtime_ns == time]
    assert len(kept) >= 3


def stopped(archive, table, count):
    """A run that was left after some results."""
    for number, _ in enumerate(many(archive).results(resume=table)):
        if number == count:
            break


def test_what_changed_since_is_done_again_and_what_came_is_done_too(archive, tmp_path):
    stopped(archive, tmp_path / "t.csv", 10)
    known = [line[0] for line in complete_lines(tmp_path / "t.csv.partial")[1:]]
    write(archive / known[2], picture(30, 70))
    write(archive / "00b.png", picture(31))
    (archive / known[5]).unlink()
    os.utime(archive / known[4], ns=(1, 1))
    fresh = {result.path for result in many(archive).results(resume=tmp_path / "t.csv")}
    assert "00b.png" in fresh and fresh & set(known) == {known[2], known[4]}
    assert (tmp_path / "t.csv").read_bytes() == many(archive).to_csv(
        tmp_path / "whole.csv"
    ).read_bytes()


def test_rows_of_another_run_are_not_mixed_in(archive, tmp_path):
    stopped(archive, tmp_path / "t.csv", 5)
    before = (tmp_path / "t.csv.partial").read_bytes()
    with raises(ErrorCode.RESUME_MISMATCH, "spacing=None", "spacing=0.5"):
        many(archive, spacing=0.5).to_csv(tmp_path / "t.csv", resume=True)
    with raises(ErrorCode.RESUME_MISMATCH, "name=bright", "name=deadly"):
        many(archive, engine=deadly).to_csv(tmp_path / "t.csv", resume=True)
    with raises(ErrorCode.RESUME_MISMATCH, "check_input=True", "check_input=False"):
        many(archive, check_input=False).to_csv(tmp_path / "t.csv", resume=True)
    assert (tmp_path / "t.csv.partial").read_bytes() == before


def test_refused_ones_are_kept_or_tried_again(archive, tmp_path):
    for retry in (False, True):
        stopped(archive, tmp_path / "t.csv", 15)
        tried = [
            result.path for result in many(archive).results(resume=tmp_path / "t.csv", retry=retry)
        ]
        assert ("07a.png" in tried) is retry


def test_arrays_are_known_by_their_content(tmp_path):
    stopped([picture(number) for number in range(10)], tmp_path / "t.csv", 6)
    moved = [picture(number) for number in (9, *range(9))]
    assert len(list(many(moved).results(resume=tmp_path / "t.csv"))) == 4
    assert (tmp_path / "t.csv").read_bytes() == many(moved).to_csv(
        tmp_path / "whole.csv"
    ).read_bytes()


def test_a_journal_torn_at_any_byte_gives_whole_rows_only(archive, tmp_path):
    stopped(archive, tmp_path / "t.csv", 4)
    partial = tmp_path / "t.csv.partial"
    text, rows = partial.read_bytes(), many(archive).all_rows()
    run = complete_lines(partial)[0][-1]
    start = (
        text.index(b"\n", len(text) // 2)
        if text.count(b"\n") < 4
        else text[: text.rindex(b"\n", 0, -1)].rindex(b"\n")
    )
    for end in range(start, len(text)):
        partial.write_bytes(text[:end])
        journal = Journal(tmp_path / "t.csv", run)
        assert {values for known in journal.known.values() for values in known} <= set(
            rows
        ) and len(journal.known) == text[:end].count(b"\n") - 1
        journal.close()
    for end in (0, 10, text.index(b"\n")):
        partial.write_bytes(text[:end])
        journal = Journal(tmp_path / "t.csv", run)
        assert not journal.known
        journal.close()


def test_a_scan_that_is_given_twice_has_two_rows_and_two_sets_of_files(archive, tmp_path):
    twice = [archive / "01.png", archive / "02.png", archive / "01.png", archive / "03.png"]
    whole = many(twice).save(tmp_path / "whole")
    for stop in (1, 2, 3):
        out = tmp_path / f"out{stop}"
        for number, _ in enumerate(many(twice).results(out, out / "results.csv")):
            if number == stop:
                break
        many(twice).save(out, resume=True)
        assert sorted(path.name for path in out.iterdir()) == sorted(
            path.name for path in whole.iterdir()
        )
        assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_row_without_its_files_is_done_again(archive, tmp_path):
    out = tmp_path / "out"
    stopped(archive, out / "results.csv", 5)  # a table's rows have no files
    many(archive).save(out, resume=True)
    assert len(list(out.glob("*_overlay.png"))) == 20
    half = many(archive).results(out, out / "results.csv")
    gone = [next(half).files for _ in range(6)][2]
    half.close()
    for path in gone:
        path.unlink()
    many(archive).save(out, resume=True)
    assert all(path.is_file() for path in gone)


def test_touched_scans_keep_the_names_of_their_files(archive, tmp_path):
    out = tmp_path / "out"
    for number, _ in enumerate(many(archive).results(out, out / "results.csv")):
        if number == 8:
            break
    for path in archive.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    many(archive).save(out, resume=True)
    whole = many(archive).save(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def test_a_finished_batch_leaves_no_journal_behind(archive, tmp_path):
    stopped(archive, tmp_path / "t.csv", 5)
    batch = many(archive)
    rows = list(batch.all_rows())
    batch.to_csv(tmp_path / "t.csv", resume=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [
        "t.csv"
    ] and batch.rows == rows


# ---------------------------------------------------------------- what else may lie there


@pytest.mark.parametrize(
    "content",
    [
        "source,status,p_glioma,a run\na.png,ok,1,\n",
        "somebody's own",
        ",".join(RESULT_COLUMNS) + "\n",
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(archive, tmp_path, content):
    partial = tmp_path / "t.csv.partial"
    partial.write_text(content)
    with raises(ErrorCode.RESUME_MISMATCH, partial):
        many(archive).to_csv(tmp_path / "t.csv", resume=True)
    assert partial.read_text() == content


@pytest.mark.parametrize("zeros", [1, 4096, 200_000])
def test_zeros_of_a_power_cut_cost_one_row_at_most(archive, tmp_path, zeros):
    stopped(archive, tmp_path / "t.csv", 6)
    partial = tmp_path / "t.csv.partial"
    text, count = partial.read_bytes(), len(complete_lines(partial))
    for end, kept in (
        (len(text), count),
        (len(text) - 2, count - 1),
        (len(text) - 9, count - 1),
        (0, 0),
    ):
        partial.write_bytes(text[:end] + b"\0" * zeros)
        assert len(complete_lines(partial)) == kept
    hole = text.rindex(b",", 0, -60)
    partial.write_bytes(text[:hole] + b"\0" * zeros + text[hole:])
    if zeros < 10_000:
        assert len(complete_lines(partial)) == count - 1
    else:
        with raises(ErrorCode.FILE_UNREADABLE, partial):
            complete_lines(partial)


def test_of_two_runs_on_a_table_the_later_goes_on(archive, tmp_path):
    early = many(archive).results(resume=tmp_path / "t.csv")
    first = [next(early) for _ in range(4)]
    late = many(archive).results(resume=tmp_path / "t.csv")
    next(late)
    with raises(ErrorCode.RESUME_MISMATCH, "t.csv"):
        list(early)
    assert (
        len(first) == 4
        and (tmp_path / "t.csv.partial").is_file()
        and not (tmp_path / "t.csv").exists()
    )
    assert len(list(late)) == 22 - 3 - 1
    assert (tmp_path / "t.csv").read_bytes() == many(archive).to_csv(
        tmp_path / "whole.csv"
    ).read_bytes()


def test_the_end_of_the_earlier_run_takes_nothing_from_the_later(tmp_path):
    early, late = (Journal(tmp_path / "t.csv", "a run") for _ in range(2))
    early.close(complete=True)
    assert late.path.is_file()
    late.close(complete=True)
    assert not late.path.exists()


class Full:
    """A stream onto a full disk."""

    def __init__(self, stream):
        self.stream, self.fileno = stream, stream.fileno

    def write(self, text):
        raise OSError(28, "No space left on device")

    def close(self):
        self.stream.close()
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_in_words(archive, tmp_path, monkeypatch):
    opened = Journal._open
    batch = many(archive).results(resume=tmp_path / "t.csv")
    with monkeypatch.context() as patch:
        patch.setattr(
            Journal,
            "_append",
            lambda self, path, lines: path.write_text(",".join(RESULT_COLUMNS) + ",run\n"),
        )
        patch.setattr(Journal, "_open", lambda self, path: Full(opened(self, path)))
        with raises(ErrorCode.WRITE_FAILED, "No space left"):
            list(batch)


def test_odd_names_are_noted_and_half_a_letter_costs_only_its_mark(tmp_path):
    values = ("a\ud800.png", *[None] * (len(RESULT_COLUMNS) - 1))
    journal = Journal(tmp_path / "t.csv", "a run")
    journal.add(values, "file 1 1")
    for name in ("b.png", "c\rb.png", "d\nb.png"):
        journal.add((name, *values[1:]), "file 1 1")
    journal.close()
    journal = Journal(tmp_path / "t.csv", "a run")
    assert [name for name, _ in journal.known] == ["b.png", "c\rb.png", "d\nb.png"] and len(
        complete_lines(journal.path)
    ) == 5
    journal.close()


def test_a_generator_that_was_begun_is_not_resumed(tmp_path):
    batch = many(picture(number) for number in range(9))
    next(iter(batch))
    with raises(ErrorCode.RESUME_MISMATCH):
        batch.to_csv(tmp_path / "t.csv", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_the_network_sees_a_lone_scan_as_it_sees_one_among_others(tmp_path):
    sources = samples()
    tables = []
    for size in (1, 3, 8):
        batch = analyze(sources, progress=False, batch_size=size)
        tables.append(batch.to_csv(tmp_path / f"{size}.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]

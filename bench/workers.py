"""What runs in processes of its own. Each prints lines of JSON; `python -m bench.workers NAME ...`
starts one.

`analyse` and `thesis` stay alive, get ready, and then answer each line they are sent with seconds.
`folder` and `network` do one piece of work and report. Only `thesis` imports TensorFlow."""

import json
import sys
import time
from pathlib import Path


def say(**facts) -> None:
    print(json.dumps(facts), flush=True)


def timed(work, *given) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def serve(jobs: dict) -> None:
    """Answer each line `NAME REPEATS` with the seconds of that many calls, after two that do not
    count."""
    for line in sys.stdin:
        name, repeats = line.split()
        for _ in range(2 if int(repeats) > 1 else 0):
            jobs[name]()
        say(seconds=[timed(jobs[name]) for _ in range(int(repeats))])


def memory() -> tuple[float, float]:
    """Resident memory of this process now and at its highest, in MB.

    On Linux the highest value is read from /proc: what getrusage tells there includes the parent's
    before exec."""
    import psutil

    now = psutil.Process().memory_info()
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return now.rss / 1e6, int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    if sys.platform == "win32":
        return now.rss / 1e6, now.peak_wset / 1e6
    import resource

    return now.rss / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )


def long_way(engine) -> tuple[str, object]:
    """The first bundled sample that the network takes all the way to sizes.

    Failing that, the first.
    """
    from brain_tumor import analyze, samples

    found = [(path, analyze(path, engine=engine)) for path in samples()]
    return next((pair for pair in found if pair[1].features), found[0])


def analyse(model: str) -> None:
    """One scan by `analyze`, reading included.

    And the parts of it: the network alone, reading, measuring.
    """
    from brain_tumor import analyze, measure
    from brain_tumor.imaging.preprocessing import prepare, restore
    from brain_tumor.inference.engines import load_engine
    from brain_tumor.io.decode import read_in_process

    engine = load_engine(model)
    path, result = long_way(model)
    scan = read_in_process(path)
    square, frame = prepare(scan.pixels, engine.manifest["size"])
    given = {engine.input: square[None, ..., None]}
    outline = engine.session.run(None, given)[1][0]
    jobs = {
        "analyze": lambda: analyze(path, engine=model),
        "network": lambda: engine.session.run(None, given),
        "read": lambda: read_in_process(path),
        "prepare": lambda: prepare(scan.pixels, engine.manifest["size"]),
        "restore": lambda: restore(outline, frame),
    }
    if result.features:
        jobs["measure"] = lambda: measure(result.mask, scan.spacing)
    loaded = any(name in sys.modules for name in ("tensorflow", "keras"))
    say(
        sample=path.name,
        predicted_class=result.predicted_class,
        measured=bool(result.features),
        size=scan.pixels.shape,
        jobs=list(jobs),
        tensorflow=loaded,
        model={key: engine.info[key] for key in ("version", "sha256")},
    )
    serve(jobs)


def thesis(sample: str) -> None:
    """The same scan the thesis' way.

    Its pictures are prepared beforehand, which is in its favour.
    """
    from bench.thesis import Thesis
    from brain_tumor import samples
    from brain_tumor.io.decode import read_in_process

    networks = Thesis()
    path = next(path for path in samples() if path.name == sample)
    pictures, scan = networks.inputs(read_in_process(path).pixels)
    jobs = {
        "thesis": lambda: networks.analyse(pictures, scan),
        "resunet": lambda: networks.resunet.predict(scan, verbose=0),
    }
    for _ in range(2):
        jobs["thesis"]()
    models = [*networks.backbones, networks.stacking, networks.resunet]
    say(jobs=list(jobs), parameters={model.name: model.count_params() for model in models})
    serve(jobs)


def folder(scans: str, out: str, model: str) -> None:
    """A folder of scans, read, analysed and written, from the call to the closed table."""
    from brain_tumor import analyze

    start = time.perf_counter()
    batch = analyze(scans, engine=model, progress=False)
    early, statuses = None, []
    for done, result in enumerate(batch.results(save_to=out), 1):
        statuses.append(result.status)
        if done == len(batch) // 5:
            early = memory()
    batch.to_csv(Path(out) / "results.csv")
    seconds = time.perf_counter() - start
    now, peak = memory()
    say(
        seconds=seconds,
        scans=len(statuses),
        refused=statuses.count("refused"),
        batch_size=batch.batch_size,
        rss_early=early[0],
        peak_early=early[1],
        rss=now,
        peak=peak,
        tensorflow="tensorflow" in sys.modules,
    )


def network(scans: str, count: str, batch_size: str, model: str) -> None:
    """The network alone on prepared arrays in memory, in the engine's batches.

    And in others, for comparison.
    """
    from bench.scans import prepared
    from brain_tumor.inference.engines import load_engine

    engine = load_engine(model)
    squares = prepared(scans, engine.manifest["size"], int(count))

    def run(step, part):
        for i in range(0, len(part), step):
            engine.session.run(None, {engine.input: part[i : i + step]})

    seconds, own = {}, int(batch_size)
    for step in dict.fromkeys((own, 1, 32)):
        run(step, squares[: 2 * step])
        part = squares if step == own else squares[: max(len(squares) // 5, 1)]
        seconds[step] = timed(run, step, part) / len(part)
    say(
        seconds=seconds[own] * len(squares),
        scans=len(squares),
        batch_size=own,
        seconds_per_scan=seconds,
    )


if __name__ == "__main__":
    {"analyse": analyse, "thesis": thesis, "folder": folder, "network": network}[sys.argv[1]](
        *sys.argv[2:]
    )

"""The search for copies (`brain_tumor.data.duplicates`) judged on the public sets, side by side
with imagededup's perceptual hash, and shown to grow.

    python bench/duplicates.py --data FOLDER                        ours alone
    python bench/duplicates.py --data FOLDER --imagededup PYTHON    with imagededup
    python bench/duplicates.py --parts growth                       generated images; needs no data

PYTHON is an interpreter that can import imagededup.

The record is runs/bench/duplicates.json, the tables are runs/audit/*.csv. Parts that are not asked
for keep what the record says of them."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.generated import WAYS, planted_at, spoilt, stream  # noqa: E402
from bench.run import CACHE, ROOT, environment, judge, shown, turns  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("growth", "time", "recall", "planted")
DISTANCE, DISTANCES = (
    10,
    range(17),
)  # of two hashes, in bits: imagededup's default, and all that are tried
SEED, ORIGINALS, ROUNDS = 0, 600, 3
GROWTH, COPIES = (5_000, 20_000, 100_000), 500
MARK = "answer: "

OURS = f"""
import json, sys
from pathlib import Path
from bench.workers import memory
from brain_tumor.data.duplicates import find_duplicates, fingerprint_images
files = sorted(Path(sys.argv[1]).iterdir())
print({MARK!r} + json.dumps({{"files": len(files), "peak": memory()[1],
    "pairs": len(find_duplicates(fingerprint_images(files)))}}))
"""
THEIRS = f"""
import json, sys
from importlib.metadata import version
from imagededup.methods import PHash
if __name__ == "__main__":
    hashes = PHash(verbose=False)
    codes = hashes.encode_images(sys.argv[1])
    pairs = hashes.find_duplicates(
        encoding_map=codes, max_distance_threshold={DISTANCE}, scores=True)
    answer = {{"files": len(codes), "pairs": sum(map(len, pairs.values())) // 2,
              "version": version("imagededup")}}
    print({MARK!r} + json.dumps(answer | ({{"codes": codes}} if sys.argv[2:] else {{}})))
"""


# Whole processes


def process(python: str, code: str, *words) -> tuple[dict, float, float]:
    """What a fresh process answers, its seconds on the clock and those of the processor, its
    children's included."""
    import resource  # which Windows lacks: what else is here needs none

    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [python, "-c", code, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"this failed: {code}\n{done.stderr[-4000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    return (
        json.loads(lines[-1].removeprefix(MARK)),
        seconds,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def has_imagededup(python: str) -> bool:
    return (
        subprocess.run(
            [python, "-c", "import imagededup.methods"], env=environment(), capture_output=True
        ).returncode
        == 0
    )


def links(folder: Path, table: "pd.DataFrame") -> list[str]:
    """A flat folder of links to the table's files, so that both sides look at the same.

    Their names, in the table's order.
    """
    names = [f"{number:05d}{Path(path).suffix}" for number, path in enumerate(table["path"])]
    for name, path in zip(names, table["path"]):
        (folder / name).symlink_to(Path(path).resolve())
    return names


def codes_of(python: str, folder: Path, names: list[str]) -> np.ndarray:
    """imagededup's hashes (N,) uint64 of the files, checked against its own count of pairs."""
    answer = process(python, THEIRS, folder, "codes")[0]
    codes = np.array([int(answer["codes"][name], 16) for name in names], np.uint64)
    first, second, _ = near_codes(codes, codes, DISTANCE)
    if (first < second).sum() != answer["pairs"]:
        sys.exit(
            f"imagededup counts {answer['pairs']} pairs, its hashes compared here give "
            f"{(first < second).sum()}"
        )
    return codes


def near_codes(
    a: np.ndarray, b: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in `most` bits at the most: first, second, bits."""
    found = []
    for start in range(0, len(a), 512):
        bits = np.bitwise_count(a[start : start + 512, None] ^ b[None])
        first, second = np.nonzero(bits <= most)
        found.append((first + start, second, bits[first, second]))
    return tuple(np.concatenate(part) for part in zip(*found))


def timed(table: "pd.DataFrame", python: str | None) -> dict:
    """Both as whole processes in turns, on the same files; one uncounted run each before."""
    sides = {"ours": (sys.executable, OURS)} | ({"imagededup": (python, THEIRS)} if python else {})
    seconds, cpu, answers = ({name: [] for name in sides} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        links(Path(folder), table)
        for side in sides.values():
            process(*side, folder)
        for _ in turns(ROUNDS, "time"):
            for name, side in sides.items():
                answer, wall, used = process(*side, folder)
                answers[name].append(answer), seconds[name].append(wall), cpu[name].append(used)
    peak = max(answer["peak"] for answer in answers["ours"])
    rows = [
        judge(
            "highest memory of the search",
            {"ratio": peak, "lowest": peak, "highest": peak},
            most=2000,
            unit=" MB",
        )
    ]
    if python:
        rows = [
            judge(
                f"{len(table):,} files, {what}, times imagededup's",
                ratios(of["ours"], of["imagededup"]),
                most=2,
                aim=1,
            )
            for what, of in (("seconds", seconds), ("processor seconds", cpu))
        ] + rows
    return {
        "files": len(table),
        "rounds": ROUNDS,
        "seconds": seconds,
        "processor_seconds": cpu,
        "answers": {name: some[-1] for name, some in answers.items()},
        "table": rows,
    }


def ratios(above: list[float], below: list[float]) -> dict:
    """Median of the rounds' ratios, and their range."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return {"ratio": median(pairs), "lowest": min(pairs), "highest": max(pairs)}


# Against what is known of the sets


def matched(first: np.ndarray, second: np.ndarray, worth: np.ndarray, truth: np.ndarray) -> dict:
    """Pictures (`first`) whose known slice (`truth`, -1:

    None) is among their matches, and those whose best match is another; a tie counts as right.
    """
    known = truth[first] >= 0
    first, second, worth = first[known], second[known], worth[known]
    right = truth[first] == second
    best, own = np.full(len(truth), -np.inf), np.full(len(truth), -np.inf)
    np.maximum.at(best, first, worth)
    np.maximum.at(own, first[right], worth[right])
    count = int((truth >= 0).sum())
    wrong = np.flatnonzero(best > own)
    return {
        "known": count,
        "found": int(np.isfinite(own).sum()),
        "wrong_best": len(wrong),
        "pairs": len(first),
        "pairs_right": int(right.sum()),
        "missed": np.flatnonzero((truth >= 0) & ~np.isfinite(own)).tolist(),
        "wrong": wrong.tolist(),
    }


def twins(shas: "pd.Series") -> np.ndarray:
    """All pairs of pictures (M, 2) whose published files held the same pixels."""
    groups = [
        rows
        for rows in shas.reset_index(drop=True).groupby(shas.to_numpy()).groups.values()
        if len(rows) > 1
    ]
    return np.array(
        [(a, b) for rows in groups for n, a in enumerate(rows) for b in rows[n + 1 :]], int
    ).reshape(-1, 2)


def among(pairs: np.ndarray, first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Which of the pairs (M, 2; smaller first) were found."""
    return np.isin(
        pairs[:, 0] * count + pairs[:, 1], np.asarray(first) * count + np.asarray(second)
    )


def in_one_group(table: "pd.DataFrame", first: np.ndarray, second: np.ndarray) -> dict:
    """Pairs and the share of them in one group of the manifest:

    All, tumour pictures, no_tumor pictures.
    """
    group, healthy = table["group"].to_numpy(str), (table["class"] == "no_tumor").to_numpy()
    same, none = group[first] == group[second], healthy[first] & healthy[second]
    return {
        name: {
            "pairs": int(rows.sum()),
            "in_one_group": float(same[rows].mean()) if rows.any() else None,
        }
        for name, rows in (("all", np.ones(len(same), bool)), ("tumour", ~none), ("no_tumor", none))
    }


def joined(
    table: "pd.DataFrame", pairs: "pd.DataFrame", verdicts: dict[tuple[str, str], str]
) -> "pd.DataFrame":
    """Groups of the manifest that the search joins:

    Pairs, best correlation, roles, and what the eye said (from the table as it stands).
    """
    group, role = table["group"].to_numpy(str), table["role"].to_numpy(str)
    a, b = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    low, high = np.sort(np.stack([group[a], group[b]]), axis=0)
    some = pairs.assign(
        group_a=low,
        group_b=high,
        roles=[" ".join(sorted({role[i], role[j]})) for i, j in zip(a, b)],
    )[low != high]
    out = (
        some.groupby(["group_a", "group_b"])
        .agg(
            pairs=("first", "size"),
            correlation=("correlation", "max"),
            roles=("roles", lambda x: " ".join(sorted(set(" ".join(x).split())))),
        )
        .reset_index()
    )
    return out.assign(
        kind=[verdicts.get(key, "not looked at") for key in zip(out["group_a"], out["group_b"])]
    )


def known_verdicts(file: Path) -> dict[tuple[str, str], str]:
    import pandas as pd

    if not file.is_file():
        return {}
    table = pd.read_csv(file)
    return dict(zip(zip(table["group_a"], table["group_b"]), table["kind"]))


def conflicts(
    kaggle: "pd.DataFrame", slices: "pd.DataFrame", between: "pd.DataFrame"
) -> "pd.DataFrame":
    """Pictures of another class than the slice that they copy (their best match)."""
    best = between.sort_values(
        ["exact", "correlation"], ascending=False, kind="stable"
    ).drop_duplicates("first")
    one, two = (
        kaggle.iloc[best["first"]].reset_index(drop=True),
        slices.iloc[best["second"]].reset_index(drop=True),
    )
    out = one[["image", "class"]].assign(
        figshare_id=two["number"],
        figshare_class=two["class"],
        correlation=best["correlation"].to_numpy(),
        mirrored=best["mirrored"].to_numpy(),
    )
    return out[out["class"] != out["figshare_class"]].sort_values("image", ignore_index=True)


class Sets:
    """The three sets as one table, and what the search keeps of them, read once."""

    def __init__(self, data: Path):
        import pandas as pd

        from brain_tumor.data.duplicates import Fingerprints, find_duplicates, fingerprint_images
        from brain_tumor.data.splits import read_data, split_hash

        table = read_data(data, copies=True)
        self.split = split_hash(table)[:12]
        raw = {
            name: pd.read_csv(data / name / "manifest.csv", dtype=str).set_index("image")
            for name in ("kaggle", "figshare")
        }
        self.table = table
        self.kaggle, self.slices = (
            table[table["source"] == name].reset_index(drop=True) for name in ("kaggle", "figshare")
        )
        self.slices["number"] = raw["figshare"].loc[self.slices["image"], "id"].to_numpy()
        self.shas = (
            raw["kaggle"].loc[self.kaggle["image"], "original_pixels_sha256"].reset_index(drop=True)
        )
        at = {number: row for row, number in enumerate(self.slices["number"])}
        self.truth = np.array(
            [
                at.get(number, -1) if isinstance(number, str) else -1
                for number in self.kaggle["copy_of"]
            ]
        )
        self.rows = {
            name: np.flatnonzero(table["source"] == name) for name in ("kaggle", "figshare")
        }
        self.prints = fingerprint_images(table["path"].tolist())
        part = lambda rows: Fingerprints(
            self.prints.digests[rows], self.prints.thumbs[rows], self.prints.heads[rows], {}
        )
        self.within = find_duplicates(self.prints)
        self.between = find_duplicates(part(self.rows["kaggle"]), part(self.rows["figshare"]))

    @lru_cache
    def codes(self, python: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return codes_of(python, Path(folder), links(Path(folder), self.table))


def judged(sets: Sets, first, second, worth, within) -> dict:
    """Everything that is known, of one search:

    Its pairs between Kaggle and figshare, and those within all sets.
    """
    import pandas as pd

    from brain_tumor.data.duplicates import group_duplicates

    count = len(sets.table)
    copies = matched(first, second, worth, sets.truth)
    exact = sets.rows["kaggle"][twins(sets.shas)]
    groups = group_duplicates(pd.DataFrame({"first": within[0], "second": within[1]}), count)
    return {
        "copies": copies,
        "exact": {
            "pairs": len(exact),
            "found": int(among(exact, *within, count).sum()),
            "in_one_chain": int((groups[exact[:, 0]] == groups[exact[:, 1]]).sum()),
        },
        "joined": in_one_group(sets.table, *within),
    }


def mirrored_found(sets: Sets, copies: dict) -> dict:
    """Of the copies that are mirror images of their slices:

    How many there are, how many were found.
    """
    import pandas as pd

    mirrored = pd.read_csv(
        Path(sets.kaggle["path"].iloc[0].removesuffix(sets.kaggle["image"].iloc[0]))
        / "manifest.csv"
    ).set_index("image")["mirrored"]
    turned = (mirrored.loc[sets.kaggle["image"]].to_numpy() == 1) & (sets.truth >= 0)
    return {
        "mirrored": int(turned.sum()),
        "mirrored_found": int(turned.sum() - turned[copies["missed"]].sum()),
    }


def recall(sets: Sets, python: str | None, out: Path) -> dict:
    """Both searches against the manifests.

    Writes joined.csv, conflicts.csv, missed.csv and phash.csv.
    """
    import pandas as pd

    within, between = sets.within, sets.between
    worth = between["correlation"] + between["exact"]
    ours = judged(
        sets,
        *(x.to_numpy() for x in (between["first"], between["second"], worth)),
        (within["first"].to_numpy(), within["second"].to_numpy()),
    )
    ours["copies"] |= mirrored_found(sets, ours["copies"])
    facts = lambda table: table.assign(seed=SEED, split=sets.split)
    across = joined(sets.table, within, known_verdicts(out / "joined.csv"))
    strange = int(across["pairs"][across["kind"] != "same slice"].sum())
    save(out / "joined.csv", facts(across))
    save(out / "conflicts.csv", facts(conflicts(sets.kaggle, sets.slices, between)))
    save(out / "missed.csv", facts(missed(sets, ours["copies"])))
    found = {"ours": ours}
    if python:
        rows, table = sets.codes(python), []
        first, second, bits = near_codes(
            rows[sets.rows["kaggle"]], rows[sets.rows["figshare"]], max(DISTANCES)
        )
        i, j, apart = near_codes(rows, rows, max(DISTANCES))
        i, j, apart = (part[i < j] for part in (i, j, apart))
        for most in DISTANCES:
            on = bits <= most
            one = judged(
                sets,
                first[on],
                second[on],
                -bits[on].astype(float),
                (i[apart <= most], j[apart <= most]),
            )
            one["copies"] |= mirrored_found(sets, one["copies"])
            table.append({"distance": most} | figures(one))
            found |= {"imagededup": one} if most == DISTANCE else {}
        save(
            out / "phash.csv",
            facts(
                pd.DataFrame(
                    [
                        {"search": "ours"} | figures(ours),
                        *({"search": "pHash"} | row for row in table),
                    ]
                )
            ),
        )
    for one in found.values():
        one["copies"] = {
            key: value for key, value in one["copies"].items() if key not in ("missed", "wrong")
        }
    copies, exact = ours["copies"], ours["exact"]
    share = lambda value: {"ratio": 100 * value, "lowest": 100 * value, "highest": 100 * value}
    rows = [
        judge(
            "copies of figshare slices on Kaggle that are found",
            share(copies["found"] / copies["known"]),
            least=99,
            unit=" %",
        ),
        judge(
            "  whose best match is another slice",
            share(copies["wrong_best"] / copies["known"]),
            most=0.5,
            unit=" %",
        ),
        judge(
            "  exact duplicates on Kaggle that are found",
            share(exact["in_one_chain"] / exact["pairs"]),
            least=100,
            unit=" %",
        ),
        judge(
            "  pairs joined that lie in one group of the manifest",
            share(ours["joined"]["all"]["in_one_group"]),
            least=99,
            unit=" %",
        ),
        judge(
            "    the same, with those of which the eye says that they show the same slice",
            share(1 - strange / max(len(within), 1)),
            least=99,
            unit=" %",
        ),
        judge(
            "    in one group, tumour pictures",
            share(ours["joined"]["tumour"]["in_one_group"]),
            unit=" %",
        ),
    ]
    return found | {"pictures": len(sets.table), "split": sets.split, "table": rows}


def figures(one: dict) -> dict:
    """A line of phash.csv: shares of one search."""
    copies, exact = one["copies"], one["exact"]
    return {
        "found": copies["found"] / copies["known"],
        "mirrored_found": copies["mirrored_found"] / copies["mirrored"],
        "wrong_best": copies["wrong_best"] / copies["known"],
        "right_pairs": copies["pairs_right"] / max(copies["pairs"], 1),
        "exact_found": exact["found"] / exact["pairs"],
        "exact_in_one_chain": exact["in_one_chain"] / exact["pairs"],
        "pairs": one["joined"]["all"]["pairs"],
        **{f"one_group_{name}": value["in_one_group"] for name, value in one["joined"].items()},
    }


def missed(sets: Sets, copies: dict) -> "pd.DataFrame":
    """Copies that were not found or whose best match is another slice:

    What the two looked like to the search.
    """
    import pandas as pd

    from brain_tumor.data.duplicates import Fingerprints, find_duplicates

    rows = []
    for kind in ("missed", "wrong"):
        for row in copies[kind]:
            one, two = sets.rows["kaggle"][row], sets.rows["figshare"][sets.truth[row]]
            pick = lambda n: Fingerprints(
                sets.prints.digests[n : n + 1],
                sets.prints.thumbs[n : n + 1],
                sets.prints.heads[n : n + 1],
                {},
            )
            alone = find_duplicates(pick(one), pick(two), sure=-1)
            rows.append(
                {
                    "kind": kind,
                    "image": sets.kaggle["image"][row],
                    "figshare_id": sets.slices["number"][sets.truth[row]],
                    "head": " ".join(map(str, sets.prints.heads[one])),
                    "slice_head": " ".join(map(str, sets.prints.heads[two])),
                    "correlation": alone["correlation"].max() if len(alone) else None,
                }
            )
    return pd.DataFrame(
        rows, columns=["kind", "image", "figshare_id", "head", "slice_head", "correlation"]
    )


def save(file: Path, table: "pd.DataFrame") -> None:
    from brain_tumor.io.files import write_whole

    file.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(file) as beside:
        table.round(4).to_csv(beside, index=False)


# Planted copies


def planted(sets: Sets, python: str | None, out: Path) -> dict:
    """Real pictures spoilt in one way at a time, looked for among all; writes planted.csv."""
    import pandas as pd

    from brain_tumor.data.datasets import read_pixels_8bit
    from brain_tumor.data.duplicates import (
        SURE_CORRELATION,
        find_duplicates,
        fingerprint_images,
        group_duplicates,
    )

    chosen = np.sort(np.random.default_rng(SEED).permutation(len(sets.table))[:ORIGINALS])
    originals = [read_pixels_8bit(path) for path in sets.table["path"].iloc[chosen]]
    group, groups = (
        sets.table["group"].to_numpy(str),
        group_duplicates(sets.within, len(sets.table)),
    )
    rows = []
    for number, way in enumerate(WAYS):
        copies = [
            spoilt(one, way, np.random.default_rng([SEED, number, n]))
            for n, one in enumerate(originals)
        ]
        found = find_duplicates(sets.prints, fingerprint_images(copies), sure=0.5)
        near = [found[x].to_numpy() for x in ("first", "second", "correlation")]
        rows.append(landed("ours", way, near, SURE_CORRELATION, chosen, groups, group))
        if python:
            hashes = sets.codes(python)
            first, second, bits = near_codes(hashes, hashes_of(python, copies), max(DISTANCES))
            i, j, _ = near_codes(hashes, hashes, DISTANCE)
            rows.append(
                landed(
                    "pHash",
                    way,
                    [first, second, -bits.astype(float)],
                    -DISTANCE,
                    chosen,
                    group_duplicates(pd.DataFrame({"first": i, "second": j}), len(hashes)),
                    group,
                )
            )
    table = pd.DataFrame(rows)
    save(out / "planted.csv", table.assign(originals=ORIGINALS, seed=SEED, split=sets.split))
    own = table[table["search"] == "ours"].set_index("way")
    share = lambda value: {"ratio": 100 * value, "lowest": 100 * value, "highest": 100 * value}
    return {
        "originals": ORIGINALS,
        "seed": SEED,
        "table": [
            judge(
                f"planted copies found: {way}",
                share(own["recall"][way]),
                least=99 if way != "all" else None,
                unit=" %",
            )
            for way in WAYS
        ],
    }


def hashes_of(python: str, pictures: list[np.ndarray]) -> np.ndarray:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        names = [f"{number:05d}.png" for number in range(len(pictures))]
        for name, one in zip(names, pictures):
            cv2.imwrite(str(Path(folder) / name), one)
        return codes_of(python, Path(folder), names)


def landed(
    search: str,
    way: str,
    near: list[np.ndarray],
    sure: float,
    chosen: np.ndarray,
    groups: np.ndarray,
    group: np.ndarray,
) -> dict:
    """One line:

    How many copies land on their original, or in its chain; how alike the two are; how many pairs
    lead to another group of the manifest.
    """
    first, second, worth = near
    on, source = worth >= sure, chosen[second]
    own, kin = np.full(len(chosen), np.nan), np.zeros(len(chosen), bool)
    np.fmax.at(own, second[first == source], worth[first == source])
    kin[second[on & (groups[first] == groups[source])]] = True
    strange = group[first[on]] != group[source[on]]
    low = np.quantile(np.nan_to_num(own, nan=0 if search == "ours" else -64), 0.01)
    return {
        "search": search,
        "way": way,
        "on_original": float((own >= sure).mean()),
        "recall": float((kin | (own >= sure)).mean()),
        "lowest_percent": float(abs(low)),
        "pairs": int(on.sum()),
        "pairs_other_group": float(strange.mean()) if on.any() else 0.0,
    }


# Growth


def grow(count: int, copies: int) -> dict:
    """Search among generated pictures that are made on the fly:

    Milliseconds a picture, memory, and what of the planted copies was found.
    """
    from bench.generated import bases
    from bench.workers import memory
    from brain_tumor.data.duplicates import find_duplicates, fingerprint_images

    base = bases()
    clock = lambda: np.array([time.perf_counter(), time.process_time()])
    making = np.zeros(2)

    def counted():
        pictures = stream(count, copies, SEED, base)
        while True:
            start = clock()
            one = next(pictures, None)
            making[:] += clock() - start
            if one is None:
                return
            yield one

    start = clock()
    kept = fingerprint_images(counted(), count)
    looked, start = (clock() - start - making) / count, clock()
    found = find_duplicates(kept)
    searched = (clock() - start) / count
    pairs = set(zip(found["first"], found["second"]))
    planted = planted_at(count, copies, SEED)
    hit = {
        copy: (min(copy, original), max(copy, original)) in pairs
        for copy, (original, _) in planted.items()
    }
    by_way = {
        way: float(np.mean([hit[copy] for copy, (_, other) in planted.items() if other == way]))
        for way in WAYS
    }
    names = ("milliseconds", "processor_milliseconds")
    one_way = [hit[copy] for copy, (_, way) in planted.items() if way != "all"]
    return {
        "pictures": count,
        "planted": copies,
        "recall_one_way": float(np.mean(one_way)),
        "recall": float(np.mean(list(hit.values()))),
        "recall_by_way": by_way,
        "other_pairs": len(pairs) - sum(hit.values()),
        **{
            f"{name}_a_picture": {"making": 1e3 * m, "keeping": 1e3 * k, "searching": 1e3 * s}
            for name, m, k, s in zip(names, making / count, looked, searched)
        },
        "peak_mb": memory()[1],
    }


def growth(sizes: tuple[int, ...], copies: int) -> dict:
    """Each size in a process of its own."""
    runs = []
    for size in sizes:
        code = (
            f"import json; from bench.duplicates import grow; print({MARK!r} + "
            f"json.dumps(grow({size}, {copies})))"
        )
        answer, wall, cpu = process(sys.executable, code)
        runs.append(answer | {"seconds": wall, "processor_seconds": cpu})
        print(json.dumps(runs[-1]), flush=True)
    last, flat = runs[-1], lambda value: {"ratio": value, "lowest": value, "highest": value}
    each = lambda run: (
        run["processor_milliseconds_a_picture"]["keeping"]
        + run["processor_milliseconds_a_picture"]["searching"]
    )
    rows = [
        judge(
            f"{last['pictures']:,} generated pictures: highest memory",
            flat(last["peak_mb"]),
            most=2000,
            unit=" MB",
        ),
        judge(
            "  planted copies found, spoilt in one way",
            flat(100 * last["recall_one_way"]),
            least=99,
            unit=" %",
        ),
        judge(
            "  the same, spoilt in all ways at once",
            flat(100 * last["recall_by_way"]["all"]),
            unit=" %",
        ),
        judge(
            f"  processor time a picture, times that at {runs[0]['pictures']:,}",
            flat(each(last) / each(runs[0])),
        ),
    ]
    return {"runs": runs, "seed": SEED, "table": rows}


# The record


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="the folder with kaggle, figshare and healthy")
    parser.add_argument(
        "--imagededup",
        default=sys.executable,
        metavar="PYTHON",
        help="an interpreter that can import imagededup (this one, unless told)",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="growth on a few hundred pictures; the record is out/bench/duplicates.json",
    )
    parser.add_argument("--out", type=Path, help="the folder for runs/bench and runs/audit")
    given = parser.parse_args(words)
    runs = given.out or (CACHE if given.quick else ROOT / "runs")
    file = (
        runs / "duplicates.json"
        if given.quick and not given.out
        else runs / "bench" / "duplicates.json"
    )
    python = given.imagededup
    asked = [part for part in given.parts if part == "growth" or given.data]
    if set(asked) < set(given.parts):
        print(
            f"Left out: {', '.join(part for part in given.parts if part not in asked)}. "
            "These need --data FOLDER."
        )
    if set(asked) - {"growth"} and not has_imagededup(python):
        print(
            "imagededup cannot be imported by the interpreter given with --imagededup, so "
            "the search is judged alone."
        )
        python = None
    done = {
        name: part | {"surroundings": surroundings()}
        for name, part in work(asked, given, python, runs / "audit")
    }
    from brain_tumor.io.files import write_json

    parts = (json.loads(file.read_text(encoding="utf-8"))["parts"] if file.is_file() else {}) | done
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "seed": SEED,
        "distance": DISTANCE,
        "parts": parts,
        "table": [row for name in PARTS if name in parts for row in parts[name]["table"]],
    }
    write_json(file, record)
    print("\n".join(map(shown, record["table"])))
    return 0


def work(asked: list[str], given, python: str | None, out: Path):
    """(name, part) of each part that is asked for, one after the other."""
    if "growth" in asked:
        yield "growth", growth((300, 600), 20) if given.quick else growth(GROWTH, COPIES)
    if "time" in asked:
        from brain_tumor.data.splits import read_data

        table = read_data(given.data, copies=True)
        yield "time", timed(table[table["source"] == "kaggle"], python)
    if {"recall", "planted"} & set(asked):
        sets = Sets(given.data)
        for name, part in (("recall", recall), ("planted", planted)):
            if name in asked:
                yield name, part(sets, python, out)


def surroundings() -> dict:
    """As every benchmark's, with scikit-learn's version."""
    from importlib.metadata import version

    from bench.run import surroundings as usual

    found = usual()
    found["libraries"]["scikit-learn"] = version("scikit-learn")
    return found | {"blas_threads": os.environ.get("OPENBLAS_NUM_THREADS")}


if __name__ == "__main__":
    sys.exit(main())

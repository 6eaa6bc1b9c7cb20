"""The data stage on both engines, local processes and a local Ray cluster, in turn, in one run.

    python benchmarks/data_engines.py --megabytes 100 --processes 2 --repeats 3

The same text as benchmarks/data.py, the standard list of steps, a fresh process each time. Besides MB/s it says whether every file of
the result is the same to the byte (all but the manifest, which holds times). Ray's start-up is part of its time, and shown apart
from a run on almost nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data import SHARED, START_UP_MEGABYTES, mix, read_texts, write_input  # the script beside this one

ENGINES = ("local", "ray")


def child(engine: str, given: str, processes: int) -> dict[str, Any]:
    """Run the stage once; seconds, and a checksum of each file of the result."""
    from jielong.recipe import parse
    from jielong.runs import Run
    from jielong.workflow import run_stages, stage_module

    table = {"sources": [{"name": "text", "path": given}], "processes": processes, "engine": engine}
    stage_module("data")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_stages(parse({"data": table}, Path(folder)), Run(Path(folder) / "run"), ["data"])
        seconds = time.perf_counter() - start
        out = Path(folder) / "run" / "data"
        files = {
            str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }
    return {"seconds": seconds, "files": files}


def measure(engine: str, given: Path, processes: int) -> dict[str, Any]:
    """One run in a fresh process."""
    what = json.dumps({"engine": engine, "given": str(given), "processes": processes})
    done = subprocess.run([sys.executable, __file__, "--child", what], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, compare, print; with --out, write JSON too."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(**json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = read_texts(sorted(SHARED.glob("*.jsonl.zst")) if SHARED.is_dir() else [])
    with tempfile.TemporaryDirectory() as folder:
        tiny, whole = Path(folder) / "tiny", Path(folder) / "whole"
        write_input(tiny, mix(texts, START_UP_MEGABYTES), options.processes)
        size = write_input(whole, mix(texts, options.megabytes), options.processes)
        start = {engine: measure(engine, tiny, options.processes)["seconds"] for engine in ENGINES}
        runs: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        results = []
        for _ in range(options.repeats):
            for engine in ENGINES:
                found = measure(engine, whole, options.processes)
                runs[engine].append(found["seconds"])
                results.append(found["files"])
                print(f"{engine}: {found['seconds']:.1f} s, {size / found['seconds']:.2f} MB/s", flush=True)
    same = all(files == results[0] for files in results)
    rows = [
        {
            "engine": engine,
            "megabytes_per_second": size / statistics.median(seconds),
            "range": [size / max(seconds), size / min(seconds)],
            "start_up_seconds": start[engine],
        }
        for engine, seconds in runs.items()
    ]
    print(f"\n{size:.0f} MB, {options.processes} workers; results the same to the byte: {same}")
    for row in rows:
        low, high = row["range"]
        print(
            f"{row['engine']:6} {row['megabytes_per_second']:6.2f} MB/s ({low:.2f}..{high:.2f}), "
            f"start-up {row['start_up_seconds']:.1f} s"
        )
    if options.out:
        result = {
            "date": date.today().isoformat(),
            "what": "MB of UTF-8 text per second through the data stage on each engine, medians",
            "options": {"megabytes": size, "processes": options.processes, "repeats": options.repeats},
            "versions": {name: version(name) for name in ("ray", "numba", "numpy", "pyarrow")}
            | {"python": platform.python_version()},
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "same_bytes": same,
            "files": len(results[0]),
            "rows": rows,
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not same:
        other = next(files for files in results if files != results[0])
        names = sorted(name for name in results[0].keys() | other.keys() if results[0].get(name) != other.get(name))
        raise SystemExit(f"the engines gave different results: {', '.join(names)}")


if __name__ == "__main__":
    main()

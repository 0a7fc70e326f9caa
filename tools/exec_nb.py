"""Run notebooks from top to bottom and record their outputs so that a second run changes nothing.

    python tools/exec_nb.py nbs/00_scan.ipynb nbs/02_morphology.ipynb

Cells marked `#| eval: false` keep the outputs they have. What differs from run to run is left out:
log lines on standard error, live widgets and execution counts. A notebook that fails keeps its old
outputs; its error is shown and the exit status is 1.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
NOT_RUN = re.compile(r"^#\|\s*eval:\s*false\s*$", re.MULTILINE)
SKIP = "skip-execution"  # the one mark that nbclient heeds


def skipped(notebook):
    """The code cells that carry `#| eval: false` and no tag of their own yet."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and NOT_RUN.search(cell.source)
        and SKIP not in cell.metadata.get("tags", [])
    ]


def lasting(output):
    """`output` without what changes from run to run, or None when nothing is left."""
    if output.get("name") == "stderr":
        return None
    data = output.get("data", {})
    if data.pop(WIDGET, None) is not None and set(data) <= {"text/plain"}:
        return None
    if "execution_count" in output:
        output["execution_count"] = None
    return output


def record(path, timeout):
    """Run the notebook at `path` in its own folder and write it back with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    marked = skipped(notebook)
    for cell in marked:
        cell.metadata.setdefault("tags", []).append(SKIP)
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    ).execute()
    for cell in marked:
        cell.metadata["tags"].remove(SKIP)
        if not cell.metadata["tags"]:
            del cell.metadata["tags"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in map(lasting, cell.outputs) if output is not None]
    beside = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, beside)
    os.replace(beside, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--timeout", type=int, default=1800, help="seconds a cell may take (default 1800)"
    )
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    failed = 0
    for path in args.notebooks:
        start = time.time()
        try:
            record(path, args.timeout)
        except CellExecutionError as error:
            failed += 1
            print(f"{path}: failed, left as it was\n{error}", file=sys.stderr)
        else:
            print(f"{path}: {time.time() - start:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

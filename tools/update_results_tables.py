#!/usr/bin/env python3
"""Writes measured results into the docs, so that no number there is typed by hand.

    tools/update_results_tables.py [--root FOLDER] [--check]

A page has a block between two comments:

    <!-- results: amd-epyc-zen4-2-cores-*.jsonl name=gemm threads=2 -->
    (a table; this tool writes it)
    <!-- end of results -->

The first word names files in bench/results/ (the last one by name that matches is taken); each word after it keeps the
rows whose field has that value. The columns are those that the rows have. --check changes nothing and fails when a
block is not what the files say. Exit status 1 with FILE:LINE for whatever is wrong.
"""

import argparse
import json
import pathlib
import re
import sys

BEGIN = re.compile(r"^<!-- results: (\S+)((?: \S+=\S+)*) -->$")
END = "<!-- end of results -->"
IDENTITY = ("name", "function", "shape", "dtype", "numerics", "device", "threads", "rival")


class Problem(Exception):
    pass


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def read_rows(path: pathlib.Path) -> list[dict]:
    """The results of a file; of a row that it has twice, the last."""
    rows: dict[tuple, dict] = {}
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise Problem(f"{path.name}:{line_number}: {error}") from None
        if not isinstance(row, dict):
            raise Problem(f"{path.name}:{line_number}: not a JSON object")
        if row.get("name") == "machine":
            continue
        if row.get("name") != "accuracy" and ("value" not in row or "unit" not in row):
            raise Problem(f"{path.name}:{line_number}: a result without value and unit")
        rows[tuple(row.get(field) for field in IDENTITY)] = row
    return list(rows.values())


def ratio_text(row: dict) -> str:
    if row.get("ratio") is None:
        return ""
    text = f"{row['ratio']:.2f}"
    if row.get("ratio_min") is not None and row.get("ratio_max") is not None:
        text += f" ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    return text


COLUMNS = (
    ("case", lambda row: f"{row['name']} {row['shape']}"),
    ("dtype", lambda row: row.get("dtype", "")),
    ("numerics", lambda row: row.get("numerics", "")),
    ("device", lambda row: row.get("device", "")),
    ("threads", lambda row: str(row.get("threads", ""))),
    ("Sporkle", lambda row: f"{number(row['value'])} {row['unit']}"),
    ("of peak", lambda row: "" if row.get("percent_of_peak") is None else f"{row['percent_of_peak']:.0f} %"),
    ("rival", lambda row: row.get("rival") or ""),
    ("rival's", lambda row: "" if row.get("rival_value") is None else f"{number(row['rival_value'])} {row['unit']}"),
    ("ratio", ratio_text),
)

# Rows of `sporkle accuracy --json`; errors in units in the last place.
ACCURACY_COLUMNS = (
    ("function", lambda row: f"`{row['function']}`"),
    ("inputs", lambda row: "all 2^32" if row["inputs"] == 2**32 else str(row["inputs"])),
    ("Sporkle", lambda row: f"{row['max_ulp']:.3f}"),
    ("at", lambda row: f"{row['at']:.6g}"),
    ("stated limit", lambda row: f"{row['limit_ulp']:.3f}"),
    ("C library", lambda row: f"{row['c_library_max_ulp']:.3f}" if "c_library_max_ulp" in row else ""),
    ("its vectors", lambda row: f"{row['c_vectors_max_ulp']:.3f}" if "c_vectors_max_ulp" in row else ""),
)


def table(results: pathlib.Path, pattern: str, filters: list[str]) -> list[str]:
    files = sorted(results.glob(pattern))
    if not files:
        raise Problem(f"no file bench/results/{pattern}")
    rows = read_rows(files[-1])
    for text in filters:
        field, value = text.split("=", 1)
        rows = [row for row in rows if str(row.get(field)) == value]
    if not rows:
        raise Problem(f"bench/results/{files[-1].name} has no row with {' '.join(filters)}")
    kind = ACCURACY_COLUMNS if rows[0].get("name") == "accuracy" else COLUMNS
    columns = [(title, [cell(row).replace("|", "\\|") for row in rows]) for title, cell in kind]
    columns = [column for column in columns if any(column[1])]
    lines = ["| " + " | ".join(title for title, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cells[i] for _, cells in columns) + " |" for i in range(len(rows))]
    return ["", *lines, "", f"From [{files[-1].name}](RESULTS/{files[-1].relative_to(results).as_posix()}).", ""]


def rewritten(page: pathlib.Path, root: pathlib.Path) -> str:
    """The page's text with every block as the files say."""
    depth = len(page.relative_to(root).parts) - 1
    link = "../" * depth + "bench/results"
    output, block_start = [], 0
    for line_number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if block_start and line != END:
            continue
        output.append(line)
        begin = BEGIN.match(line)
        if begin:
            block_start = line_number
            try:
                lines = table(root / "bench" / "results", begin.group(1), begin.group(2).split())
            except Problem as problem:
                raise Problem(f"{page.relative_to(root)}:{line_number}: {problem}") from None
            output += [text.replace("(RESULTS/", f"({link}/") for text in lines]
        elif line == END:
            if not block_start:
                raise Problem(f"{page.relative_to(root)}:{line_number}: an end of results without a beginning")
            block_start = 0
        elif line.startswith("<!-- results"):
            raise Problem(f"{page.relative_to(root)}:{line_number}: not <!-- results: FILES field=value ... -->")
    if block_start:
        raise Problem(f"{page.relative_to(root)}:{block_start}: no line {END} behind it")
    return "\n".join(output) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="writes measured results into the docs")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a table is stale")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    problems = []
    for page in sorted([*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / "bench").rglob("*.md")]):
        try:
            text = rewritten(page, root)
        except Problem as problem:
            problems.append(str(problem))
            continue
        if text == page.read_text(encoding="utf-8"):
            continue
        if arguments.check:
            problems.append(f"{page.relative_to(root)}: its results are not those of bench/results; "
                            "`tools/update_results_tables.py` writes them")
        else:
            page.write_text(text, encoding="utf-8")
            print(f"{page.relative_to(root)}: rewritten")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

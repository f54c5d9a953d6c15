#!/usr/bin/env python3
"""Checks the house style that a tool can check: clang-format, file length, and links in the docs.

    tools/check_style.py [--root FOLDER] [--fix]      --fix formats the C++ files in place

Looks at the files that git does not ignore (every file when there is no repository). Exit status 1 if anything is wrong.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

LONGEST_FILE = 900
CODE = (".h", ".cc")
COUNTED = (".h", ".cc", ".py", ".sh")
SKIPPED = ("build/", ".git/")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def project_files(root: pathlib.Path) -> list[pathlib.Path]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, check=False)
    if listing.returncode == 0 and listing.stdout:
        names = listing.stdout.decode().split("\0")
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*")]
    return sorted(root / name for name in names if name and not name.startswith(SKIPPED) and (root / name).is_file())


def clang_format(root: pathlib.Path, files: list[pathlib.Path], fix: bool) -> list[str]:
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not program:
        return ["clang-format-14 is not installed: run `make setup`"]
    mode = ["-i"] if fix else ["--dry-run", "-Werror"]

    def run(path: pathlib.Path) -> str | None:
        result = subprocess.run([program, *mode, str(path)], capture_output=True, text=True, check=False, cwd=root)
        if result.returncode == 0:
            return None
        line = re.search(r":(\d+):\d+: ", result.stderr)
        return f"{path.relative_to(root)}:{line.group(1) if line else 1}: not formatted; `make format` mends it"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [problem for problem in pool.map(run, files) if problem]


def file_length(root: pathlib.Path, files: list[pathlib.Path]) -> list[str]:
    problems = []
    for path in files:
        lines = path.read_bytes().count(b"\n")
        if lines > LONGEST_FILE:
            problems.append(f"{path.relative_to(root)}:{lines}: {lines} lines; past {LONGEST_FILE} a file holds two concepts")
    return problems


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(root: pathlib.Path, pages: list[pathlib.Path]) -> list[str]:
    problems = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        prose = CODE_BLOCK.sub(lambda block: "\n" * block.group(0).count("\n"), text)
        for match in LINK.finditer(prose):
            target = match.group(1) or match.group(2)
            if re.match(r"[a-z]+:", target):
                continue
            where = f"{page.relative_to(root)}:{prose.count(chr(10), 0, match.start()) + 1}"
            name, _, fragment = target.partition("#")
            path = (page.parent / name) if name else page
            if not path.exists():
                problems.append(f"{where}: the link {target} leads nowhere")
            elif fragment and path.suffix == ".md":
                headings = HEADING.findall(CODE_BLOCK.sub("", path.read_text(encoding="utf-8")))
                if fragment not in map(anchor, headings):
                    problems.append(f"{where}: {name or page.name} has no heading for #{fragment}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="checks formatting, file length and links in the docs")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--fix", action="store_true", help="format the C++ files in place")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    files = project_files(root)
    problems = clang_format(root, [path for path in files if path.suffix in CODE], arguments.fix)
    problems += file_length(root, [path for path in files if path.suffix in COUNTED])
    problems += broken_links(root, [path for path in files if path.suffix == ".md"])
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Takes a picture of a page, such as the one that `sporkle bench report` writes, with Debian's Chromium.

    tools/screenshot_report.py PAGE OUTPUT.png [--width 1200] [--height 1100] [--dark]

The browser runs without a window, a network or the user's own profile. Exit status 1 with the reason on failure.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --hide-scrollbars").split()


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def browse(page: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    """Opens a page in a browser with a profile of its own; raises FileNotFoundError when none is installed."""
    program = chromium()
    if not program:
        raise FileNotFoundError("Chromium is not installed (package chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", *arguments, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def take(page: pathlib.Path, output: pathlib.Path, width: int, height: int, dark: bool) -> str | None:
    """What went wrong, or None."""
    if not page.is_file():
        return f"{page}: no such page; `sporkle bench report` writes one"
    flags = [f"--window-size={width},{height}", f"--screenshot={output.resolve()}"]
    if dark:
        flags.append("--blink-settings=preferredColorScheme=0")
    output.unlink(missing_ok=True)
    try:
        result = browse(page, *flags)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not output.is_file() or output.stat().st_size == 0:
        return f"{output}: Chromium wrote no picture: {result.stderr.strip()[-500:]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="takes a picture of a page with Chromium")
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1100)
    parser.add_argument("--dark", action="store_true", help="as a reader who prefers dark pages sees it")
    arguments = parser.parse_args()
    problem = take(arguments.page, arguments.output, arguments.width, arguments.height, arguments.dark)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

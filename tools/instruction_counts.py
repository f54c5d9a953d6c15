#!/usr/bin/env python3
"""Counts the instructions that fixed pieces of work take, and compares them with those that were committed.

    tools/instruction_counts.py PROGRAM [--check | --check-planted | --update] [--other-build NAME]

PROGRAM is build/release/count_instructions. Seconds on a shared machine say little; instructions under valgrind's
callgrind are the same in every run. Kernels are compiled for x86-64-v3 (valgrind 3.19 knows no AVX-512), into a cache of
their own before valgrind starts.

--check (the default) fails when a count differs from bench/instruction_counts.json by more than its margin, in either
direction: an improvement that is not recorded would hide the next loss. It also fails when the commit that last changed
that file does not say why, in a line "Instruction counts: <reason>". --check-planted runs one region 15 % more often and
fails unless --check would. --update writes the file. Exit status 1 on failure, 77 where counting is not possible here;
the reason is printed.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = pathlib.Path("bench") / "instruction_counts.json"
MARGIN_PERCENT = 2.0
REASON = "Instruction counts:"
FUNCTION = "sporkle_counted_region"
SKIPPED = 77


class Skip(Exception):
    pass


class Problem(Exception):
    pass


def environment(cache: str) -> dict[str, str]:
    result = {name: value for name, value in os.environ.items() if not name.startswith("SPORKLE_")}
    result.update(SPORKLE_CACHE=cache, SPORKLE_CPU_TARGET="x86-64-v3", LC_ALL="C.UTF-8")
    return result


def output_of(command: list[str], env: dict[str, str]) -> str:
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Problem(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}".strip())
    return result.stdout


def count(program: str, region: str, folder: str, slowdown: bool = False) -> int:
    """Instructions of one region. Its kernels are compiled natively first."""
    env = environment(f"{folder}/cache")
    run = [program, region, *(["--slowdown"] if slowdown else [])]
    output_of(run, env)
    result = f"{folder}/callgrind.out"
    options = [f"--callgrind-out-file={result}", "--collect-atstart=no", f"--toggle-collect={FUNCTION}"]
    # Addresses decide how hash tables of pointers are walked, so they must not be random.
    can_fix = subprocess.run(["setarch", "-R", "true"], capture_output=True, check=False).returncode == 0
    fixed = ["setarch", "-R"] if can_fix else []
    output_of([*fixed, "valgrind", "--tool=callgrind", *options, *run], env)
    found = re.search(r"^(?:summary|totals): (\d+)$", pathlib.Path(result).read_text(encoding="utf-8"), re.MULTILINE)
    if not found or int(found.group(1)) == 0:
        raise Problem(f"callgrind counted nothing in {FUNCTION} for {region!r}")
    return int(found.group(1))


def all_counts(program: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="sporkle-counts-") as folder:
        regions = output_of([program, "--list"], environment(folder)).splitlines()
        return {region: count(program, region, folder) for region in regions}


def differences(old: dict[str, int], new: dict[str, int], margin_percent: float) -> list[str]:
    """What --check complains about; empty when all counts are within the margin."""
    messages = []
    for region in sorted(old.keys() | new.keys()):
        if region not in new:
            messages.append(f"{region}: in {BASELINE}, but the program has it no more")
        elif region not in old:
            messages.append(f"{region}: {new[region]} instructions, and {BASELINE} does not have it")
        else:
            change = 100 * (new[region] / old[region] - 1)
            if abs(change) > margin_percent:
                word = "more" if change > 0 else "fewer"
                messages.append(f"{region}: {new[region]} instructions, {abs(change):.1f} % {word} than {old[region]}")
    return messages


def read_baseline(root: pathlib.Path) -> tuple[dict[str, int], float]:
    path = root / BASELINE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counts, margin = content["counts"], float(content["margin_percent"])
        if not counts or not all(isinstance(n, int) and n > 0 for n in counts.values()):
            raise ValueError("counts are positive whole numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{BASELINE} cannot be read ({error}); --update writes it") from None
    return counts, margin


def check_reason(root: pathlib.Path) -> None:
    """That the commit which last changed the baseline says why."""
    def git(*arguments: str) -> str | None:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return result.stdout if result.returncode == 0 else None

    if git("rev-parse", "--git-dir") is None:
        print("not a git repository: the reason for the counts is not checked")
        return
    if git("diff", "--quiet", "HEAD", "--", str(BASELINE)) is None:
        print(f"{BASELINE} is changed and not committed: its commit's message must have a line \"{REASON} <reason>\"")
        return
    message = git("log", "-1", "--format=%B", "--", str(BASELINE))
    if not message or (git("rev-parse", "--is-shallow-repository") or "").strip() == "true":
        print("the commit of the counts is not in this clone: its reason is not checked")
        return
    if not re.search(rf"^{REASON} \S", message, re.MULTILINE):
        raise Problem(f"the commit that last changed {BASELINE} does not say why; amend its message with a line\n"
                      f"  {REASON} <what made the counts change>")


def check(program: str, root: pathlib.Path) -> None:
    check_reason(root)
    old, margin = read_baseline(root)
    new = all_counts(program)
    for region, instructions in new.items():
        print(f"{instructions:>12}  {100 * (instructions / old.get(region, instructions) - 1):+6.2f} %  {region}")
    complaints = differences(old, new, margin)
    if complaints:
        raise Problem("\n".join(complaints) + f"\nbeyond the margin of {margin:g} %. If this is meant, run\n"
                      f"  tools/instruction_counts.py {program} --update\n"
                      f"and commit {BASELINE} with a line \"{REASON} <reason>\" in the message.")


def check_planted(program: str, root: pathlib.Path) -> None:
    # Against a count of the same run, so that a drift of the baseline can neither hide the slowdown nor stand in for it.
    old, margin = read_baseline(root)
    region = min(old, key=lambda name: old[name])
    with tempfile.TemporaryDirectory(prefix="sporkle-counts-") as folder:
        usual, slow = count(program, region, folder), count(program, region, folder, slowdown=True)
    complaints = differences({region: usual}, {region: slow}, margin)
    if not complaints or slow < 1.1 * usual:
        raise Problem(f"{region!r}, run 15 % more often, took {slow} instructions instead of {usual}; nothing was noticed")
    print(f"noticed: {complaints[0]}")


def update(program: str, root: pathlib.Path) -> None:
    content = {"margin_percent": MARGIN_PERCENT, "counts": all_counts(program)}
    (root / BASELINE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{BASELINE} is written. Commit it with a line \"{REASON} <reason>\" in the message.")


def main() -> int:
    parser = argparse.ArgumentParser(description="counts the instructions of fixed work")
    parser.add_argument("program")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    parser.add_argument("--other-build", help="what this build is, where it is not the one that the counts are of")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", dest="action", action="store_const", const=check, default=check)
    action.add_argument("--check-planted", dest="action", action="store_const", const=check_planted)
    action.add_argument("--update", dest="action", action="store_const", const=update)
    options = parser.parse_args()
    try:
        if options.other_build:
            raise Skip(f"the counts are of GNU 12's release build; this is {options.other_build}")
        if not shutil.which("valgrind"):
            raise Skip("valgrind is not installed")
        options.action(options.program, options.root)
    except Skip as reason:
        print(f"skipped: {reason}")
        return SKIPPED
    except Problem as problem:
        print(problem)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

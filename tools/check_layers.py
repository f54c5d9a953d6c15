#!/usr/bin/env python3
"""Checks that every #include points down the list of layers.

The list is the one that builds the code: the sporkle_layer(NAME DEPENDS ...) lines of CMakeLists.txt. A file in
src/NAME may include its own layer and, transitively, what NAME depends on. Programs (apps, examples, tests, fuzz) may
include any layer; no layer may include a program. Project headers are named from src/, as "layer/x.h".

    tools/check_layers.py [--root FOLDER] [--stamp FILE]

Each violation is printed as FILE:LINE with what may be included instead; the exit status is 1 if there is one.
"""

import argparse
import pathlib
import re
import sys

PROGRAMS = ("apps", "examples", "tests", "fuzz")
SOURCES = (".h", ".cc")
LAYER = re.compile(r"^\s*sporkle_layer\(\s*(\w+)([^)]*)\)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def read_layers(cmake_lists: pathlib.Path) -> dict[str, set[str]]:
    """Each layer with every layer that it may include: itself, and its dependencies' layers."""
    allowed: dict[str, set[str]] = {}
    for name, rest in LAYER.findall(cmake_lists.read_text(encoding="utf-8")):
        words = re.sub(r"#.*", "", rest).split()
        allowed[name] = {name}
        if "DEPENDS" in words:
            for word in words[words.index("DEPENDS") + 1 :]:
                if word == "LIBRARIES":
                    break
                if word not in allowed:
                    sys.exit(f"{cmake_lists}: layer {name} depends on {word}, which is not declared above it")
                allowed[name] |= allowed[word]
    if not allowed:
        sys.exit(f"{cmake_lists}: no sporkle_layer(...) line found")
    return allowed


def includes(path: pathlib.Path):
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1)


def check_include(root: pathlib.Path, path: pathlib.Path, target: str, allowed: dict[str, set[str]]) -> str | None:
    """What is wrong with one include, or None."""
    parts = path.relative_to(root).parts
    layer = parts[1] if parts[0] == "src" else None
    first, _, rest = target.partition("/")
    if not rest:
        return f'"{target}" names no folder; write it from src/, as "{layer or "layer"}/{target}"'
    if layer is None:
        return None if first in allowed or first in PROGRAMS else f'"{target}": there is no layer {first}'
    if first in PROGRAMS:
        return f'layer {layer} includes "{target}", which belongs to a program'
    if first not in allowed:
        return f'layer {layer} includes "{target}", and there is no layer {first}'
    if first not in allowed[layer]:
        order = [name for name in allowed if name in allowed[layer]]
        return f'layer {layer} includes "{target}"; it may include {", ".join(order)}'
    return None


def check(root: pathlib.Path) -> list[str]:
    allowed = read_layers(root / "CMakeLists.txt")
    problems = []
    for folder in ("src", *PROGRAMS):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            relative = path.relative_to(root)
            if folder == "src" and (len(relative.parts) < 3 or relative.parts[1] not in allowed):
                problems.append(f"{relative}:1: not in a folder of a layer that CMakeLists.txt declares")
                continue
            for line, target in includes(path):
                problem = check_include(root, path, target, allowed)
                if problem:
                    problems.append(f"{relative}:{line}: {problem}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="checks that every #include points down the list of layers")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--stamp", type=pathlib.Path, help="touch this file when all is well")
    arguments = parser.parse_args()
    problems = check(arguments.root)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} include(s) break the layering of CMakeLists.txt")
        return 1
    if arguments.stamp:
        arguments.stamp.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tests of the tools: each rule of check_layers.py and check_style.py passes on a good tree and fails on a tree that
breaks it; terminal_svg.py draws what a terminal shows."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TOOLS = pathlib.Path(__file__).resolve().parent
CMAKE_LISTS = """
sporkle_layer(base LIBRARIES Threads::Threads)
sporkle_layer(ir DEPENDS base)
sporkle_layer(mesh DEPENDS base)
sporkle_layer(run DEPENDS ir mesh LIBRARIES x::y)
"""


class CheckTest(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.write("CMakeLists.txt", CMAKE_LISTS)

    def write(self, name: str, text: str):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def check(self, tool: str) -> tuple[int, str]:
        result = subprocess.run(
            [sys.executable, TOOLS / tool, "--root", self.root], capture_output=True, text=True, check=False
        )
        return result.returncode, result.stdout + result.stderr


class LayersTest(CheckTest):
    def test_includes_that_point_down_pass(self):
        self.write("src/base/a.h", "#include <vector>\n")
        self.write("src/mesh/b.cc", '#include "base/a.h"\n#include "mesh/b.h"\n#include "mesh/frames.pb.h"\n')
        self.write("src/run/c.cc", '#include "base/a.h"\n#include "ir/d.h"\n#include "mesh/b.h"\n')
        self.write("apps/sporkle/main.cc", '#include "run/c.h"\n#include "apps/sporkle/cli.h"\n')
        self.assertEqual(self.check("check_layers.py"), (0, ""))

    def test_a_sideways_include_is_named_with_what_is_allowed(self):
        self.write("src/mesh/b.cc", '\n#include "ir/node.h"\n')
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn('src/mesh/b.cc:2: layer mesh includes "ir/node.h"; it may include base, mesh', output)

    def test_an_upward_include_of_a_test_counts_too(self):
        self.write("src/base/a_test.cc", '#  include "run/c.h"\n')
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn("src/base/a_test.cc:1: layer base includes", output)

    def test_a_layer_never_includes_a_program(self):
        self.write("src/run/c.cc", '#include "apps/sporkle/cli.h"\n')
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn("belongs to a program", output)

    def test_an_include_without_its_folder(self):
        self.write("src/base/a.cc", '#include "a.h"\n')
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn('"base/a.h"', output)

    def test_unknown_layers(self):
        self.write("src/extra/a.cc", "\n")
        self.write("tests/t.cc", '#include "extra/a.h"\n')
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn("src/extra/a.cc:1: not in a folder of a layer", output)
        self.assertIn("tests/t.cc:1:", output)

    def test_a_dependency_must_be_declared_above(self):
        self.write("CMakeLists.txt", "sporkle_layer(ir DEPENDS dsl)\nsporkle_layer(dsl)\n")
        status, output = self.check("check_layers.py")
        self.assertEqual(status, 1)
        self.assertIn("layer ir depends on dsl, which is not declared above it", output)


class StyleTest(CheckTest):
    def setUp(self):
        super().setUp()
        shutil.copy(TOOLS.parent / ".clang-format", self.root)

    def test_a_good_tree_passes(self):
        self.write("src/base/a.cc", "int x = 1;\n" * 900)
        self.write("docs/a.md", "# One: two\n[self](#one-two) [web](https://example.org) [code](../src/base/a.cc)\n")
        self.assertEqual(self.check("check_style.py"), (0, ""))

    def test_formatting(self):
        self.write("src/base/a.cc", "int x = 1;\nint  y=1;\n")
        status, output = self.check("check_style.py")
        self.assertEqual(status, 1)
        self.assertIn("src/base/a.cc:2: not formatted", output)

    def test_length(self):
        self.write("src/base/a.cc", "int x = 1;\n" * 901)
        status, output = self.check("check_style.py")
        self.assertEqual(status, 1)
        self.assertIn("901 lines", output)

    def test_links(self):
        self.write("README.md", '[a](docs/a.md)\n[b](docs/none.md)\n<img src="docs/none.svg">\n[c](docs/a.md#none)\n')
        self.write("docs/a.md", "# A\n```\n[not a link](nowhere.md)\n```\n")
        status, output = self.check("check_style.py")
        self.assertEqual(status, 1)
        self.assertEqual(output.count("\n"), 3, output)
        self.assertIn("README.md:2: the link docs/none.md leads nowhere", output)
        self.assertIn("README.md:3: the link docs/none.svg leads nowhere", output)
        self.assertIn("README.md:4: docs/a.md has no heading for #none", output)


class TerminalSvgTest(unittest.TestCase):
    def render(self, text: str) -> list[xml.etree.ElementTree.Element]:
        result = subprocess.run(
            [sys.executable, TOOLS / "terminal_svg.py", "--title", "a <title>"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return xml.etree.ElementTree.fromstring(result.stdout).findall("{http://www.w3.org/2000/svg}text")

    def test_text_colours_and_columns(self):
        title, plain, red, after = self.render("ab \x1b[1;31m<c>\x1b[0m  d\n")
        self.assertEqual([title.text, plain.text, red.text, after.text], ["a <title>", "ab", "<c>", "d"])
        self.assertEqual(red.get("font-weight"), "bold")
        self.assertIsNotNone(red.get("fill"))
        self.assertIsNone(after.get("fill"))
        cell = float(plain.get("textLength")) / 2
        self.assertAlmostEqual(float(red.get("x")) - float(plain.get("x")), 3 * cell, delta=0.1)
        self.assertAlmostEqual(float(after.get("x")) - float(plain.get("x")), 8 * cell, delta=0.1)

    def test_other_sequences_are_dropped(self):
        _, text = self.render("\x1b[2J\x1b]0;name\x07\x1b[38;5;196mx\x1b[K\n\n")
        self.assertEqual((text.text, text.get("fill")), ("x", "#ff0000"))


class ResultsTablesTest(CheckTest):
    ROWS = (
        '{"name":"machine","machine":"m","date":"d","cpu":"c"}\n'
        '{"name":"gemm","shape":"64","threads":1,"value":1.5,"unit":"GFLOP/s"}\n'
        '{"name":"gemm","shape":"64","threads":2,"value":50,"unit":"GFLOP/s"}\n'
        '{"name":"gemm","shape":"64","threads":2,"value":83.66,"unit":"GFLOP/s","ratio":0.9}\n'
    )

    def run_tool(self, page: str, *arguments: str) -> tuple[int, str]:
        self.write("docs/page.md", page)
        command = [sys.executable, TOOLS / "update_results_tables.py", "--root", self.root, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout

    def test_a_stale_table_fails_the_check_and_is_rewritten(self):
        self.write("bench/results/m-1.jsonl", self.ROWS.replace("83.66", "1"))
        self.write("bench/results/m-2.jsonl", self.ROWS)
        page = "# T\n<!-- results: m-*.jsonl name=gemm threads=2 -->\nold\n<!-- end of results -->\nafter\n"
        status, output = self.run_tool(page, "--check")
        self.assertEqual(status, 1)
        self.assertIn("docs/page.md: its results are not those", output)
        self.assertEqual((self.root / "docs/page.md").read_text(), page)
        self.assertEqual(self.run_tool(page)[0], 0)
        written = (self.root / "docs/page.md").read_text()
        self.assertIn("| gemm 64 | 2 | 83.7 GFLOP/s | 0.90 |", written)
        self.assertNotIn("old", written)
        self.assertNotIn("1.5", written)
        self.assertIn("(../bench/results/m-2.jsonl)", written)
        self.assertTrue(written.endswith("<!-- end of results -->\nafter\n"))
        self.assertEqual(self.run_tool(written, "--check"), (0, ""))

    def test_errors_of_functions_have_columns_of_their_own(self):
        row = '{"name":"accuracy","function":"%s","inputs":%d,"max_ulp":0.75,"at":1.5,"limit_ulp":1}\n'
        self.write("bench/results/accuracy/f32.jsonl", row % ("exp", 2**32) + row % ("sin", 5))
        page = "# T\n<!-- results: accuracy/f32.jsonl -->\n<!-- end of results -->\n"
        self.assertEqual(self.run_tool(page)[0], 0)
        written = (self.root / "docs/page.md").read_text()
        self.assertIn("| `exp` | all 2^32 | 0.750 | 1.5 | 1.000 |", written)
        self.assertIn("| `sin` | 5 | 0.750 | 1.5 | 1.000 |", written)
        self.assertIn("(../bench/results/accuracy/f32.jsonl)", written)

    def test_wrong_blocks_and_files_are_named(self):
        self.write("bench/results/m.jsonl", self.ROWS)
        self.write("bench/results/bad.jsonl", self.ROWS + "{\n")
        end = "\n<!-- end of results -->\n"
        for page, message in (
            ("<!-- results: none.jsonl -->" + end, "docs/page.md:1: no file bench/results/none.jsonl"),
            ("<!-- results: m.jsonl name=conv -->" + end, "docs/page.md:1: bench/results/m.jsonl has no row"),
            ("<!-- results: bad.jsonl -->" + end, "docs/page.md:1: bad.jsonl:5: "),
            ("<!-- results: m.jsonl -->\n", "docs/page.md:1: no line <!-- end of results --> behind it"),
            ("\n<!-- end of results -->\n", "docs/page.md:2: an end of results without a beginning"),
            ("<!-- results m.jsonl -->\n", "docs/page.md:1: not <!-- results: FILES"),
        ):
            status, output = self.run_tool(page, "--check")
            self.assertEqual(status, 1, page)
            self.assertIn(message, output)


class InstructionCountsTest(CheckTest):
    """A fake program and a fake valgrind: what is compared and judged, without counting."""

    def run_tool(self, counts: dict[str, int], *arguments: str) -> tuple[int, str]:
        tools = self.root / "fake"
        tools.mkdir(exist_ok=True)
        (tools / "program").write_text("#!/bin/sh\n[ \"$1\" = --list ] && cat \"$0.regions\"\nexit 0\n")
        (tools / "program.regions").write_text("".join(f"{name}\n" for name in counts))
        cases = "".join(f'*" {name}"*) n={number} ;; ' for name, number in counts.items())
        (tools / "valgrind").write_text(
            '#!/bin/sh\nfor a; do case "$a" in --callgrind-out-file=*) out=${a#*=} ;; esac; done\n'
            f'case " $*" in {cases}esac\n[ "${{*##*--slowdown}}" ] || n=$((n * 23 / 20))\necho "summary: $n" >"$out"\n')
        for name in ("program", "valgrind"):
            (tools / name).chmod(0o755)
        command = [sys.executable, TOOLS / "instruction_counts.py", tools / "program", "--root", self.root, *arguments]
        path = {"PATH": f"{tools}:{os.environ['PATH']}"}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
        return result.returncode, result.stdout

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", self.root, *identity, *arguments], check=True, capture_output=True)

    def test_changes_beyond_the_margin_fail_either_way(self):
        (self.root / "bench").mkdir()
        self.assertEqual(self.run_tool({"a": 1000, "b": 500}, "--update")[0], 0)
        self.assertEqual(self.run_tool({"a": 1019, "b": 491})[0], 0)
        for counts, message in (
            ({"a": 1021, "b": 500}, "a: 1021 instructions, 2.1 % more than 1000"),
            ({"a": 1000, "b": 400}, "b: 400 instructions, 20.0 % fewer than 500"),
            ({"a": 1000}, "b: in bench/instruction_counts.json, but the program has it no more"),
            ({"a": 1000, "b": 500, "c": 1}, "c: 1 instructions, and bench/instruction_counts.json does not have it"),
        ):
            status, output = self.run_tool(counts)
            self.assertEqual(status, 1, output)
            self.assertIn(message, output)
        status, output = self.run_tool({"a": 1000, "b": 500}, "--check-planted")
        self.assertEqual(status, 0, output)
        self.assertIn("noticed: b: 575 instructions, 15.0 % more", output)

    def test_a_new_baseline_needs_a_reason(self):
        self.git("init", "-q")
        (self.root / "bench").mkdir()
        self.assertEqual(self.run_tool({"a": 1000}, "--update")[0], 0)
        self.git("add", ".")
        self.git("commit", "-qm", "Count")
        status, output = self.run_tool({"a": 1000})
        self.assertEqual(status, 1)
        self.assertIn("does not say why", output)
        self.git("commit", "-q", "--amend", "-m", "Count\n\nInstruction counts: the first")
        self.assertEqual(self.run_tool({"a": 1000}), (0, "        1000   +0.00 %  a\n"))

    def test_what_cannot_be_counted_is_said(self):
        status, output = self.run_tool({"a": 1}, "--other-build", "Clang 14, Debug")
        self.assertEqual((status, "Clang 14, Debug" in output), (77, True))
        self.assertIn("cannot be read", self.run_tool({"a": 1})[1])
        self.write("bench/instruction_counts.json", '{"margin_percent": 2, "counts": {"a": -1}}')
        self.assertIn("positive whole numbers", self.run_tool({"a": 1})[1])


if __name__ == "__main__":
    unittest.main()

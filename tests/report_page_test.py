#!/usr/bin/env python3
"""Tests the page that `sporkle bench report` writes: well-formed, each plot with as many marks as it has results, safe
whatever texts the results hold; and in a browser, where one is installed.

    tests/report_page_test.py SPORKLE
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import screenshot_report  # noqa: E402

SPORKLE = str(pathlib.Path(sys.argv.pop(1)).resolve()) if len(sys.argv) > 1 else ""
HOSTILE = "<script>alert('x')</script> & \"q\""


def machine(date, commit):
    return {"name": "machine", "machine": "small-2-cores", "date": date, "cpu": "Small & fast", "cores": 2,
            "commit": commit, "noise": 0.01, "caches": [{"level": 1, "type": "data", "size_bytes": 32768}]}


def row(name, value, unit="GFLOP/s", **more):
    return {"name": name, "shape": "64", "dtype": "f32", "numerics": "strict", "device": "cpu", "threads": 1,
            "value": value, "unit": unit, "rounds": 9, "noise": 0.02, **more}


WORK = {"seconds": 1e-3, "flops": 1e8, "bytes": 1e6, "percent_of_peak": 50}
RATIO = {"rival": "openblas", "rival_version": HOSTILE, "ratio": 1.2, "ratio_min": 0.9, "ratio_max": 1.3}
FILES = {
    "a.jsonl": [machine("2026-01-01", "aaa"), row("gemm", 80, **WORK, **RATIO), row("launch", 3, "us")],
    "b.jsonl": [machine("2026-02-01", "bbb"), row("gemm", 100, **WORK, **RATIO), row("launch", 2, "us"),
                row("copy", 20, "GB/s", seconds=1e-3, bytes=2e7, percent_of_peak=99),
                row(HOSTILE, 5, **{**WORK, "flops": 2e5})],
}


class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        for name, lines in FILES.items():
            (cls.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        cls.page = cls.path / "page.html"
        subprocess.run([SPORKLE, "bench", "report", cls.path, "--output", cls.page], check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def plots(self):
        """Each plot's kind with the number of its marks."""
        found = []
        for element in xml.etree.ElementTree.parse(self.page).iter():
            classes = element.get("class", "").split()
            if classes[:1] == ["plot"]:
                marks = [e for e in element.iter() if "mark" in e.get("class", "").split()]
                found.append((classes[1], len(marks)))
        return sorted(found)

    def test_each_plot_has_as_many_marks_as_results(self):
        self.assertEqual(
            self.plots(), [("history", 1), ("history", 1), ("history", 2), ("history", 2), ("ratios", 1), ("roofline", 2)])

    def test_the_table_has_each_row_once_with_its_command(self):
        text = self.page.read_text()
        self.assertEqual(text.count('<tr class="row">'), 4)
        self.assertIn("sporkle bench gemm --shape 64 --dtype f32", text)
        self.assertIn("Small &amp; fast", text)

    def test_it_needs_no_other_file_and_runs_no_foreign_script(self):
        text = self.page.read_text()
        self.assertEqual(text.count("<script"), 1)
        self.assertNotIn("alert('x')</script>", text)
        self.assertIsNone(re.search(r"""(src|href)=["'](?!#)|url\(|@import""", text))

    def test_each_plot_says_in_words_what_it_shows(self):
        for element in xml.etree.ElementTree.parse(self.page).iter():
            if "plot" in element.get("class", "").split():
                self.assertEqual(element.get("role"), "img")
                self.assertGreater(len(element.get("aria-label", "")), 20)

    def test_wrong_input_is_explained(self):
        def errors(folder, output="x.html"):
            command = [SPORKLE, "bench", "report", folder, "--output", output]
            result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.path)
            self.assertEqual(result.returncode, 1, result.stdout)
            return result.stderr

        self.assertIn("nowhere", errors("nowhere"))
        (self.path / "empty").mkdir()
        self.assertIn("no results in", errors("empty"))
        (self.path / "empty" / "bad.jsonl").write_text("\n[]\n")
        self.assertIn("bad.jsonl:2: ", errors("empty"))
        self.assertIn("missing/x.html", errors(self.path, "missing/x.html"))

    @unittest.skipUnless(screenshot_report.chromium(), "Chromium is not installed, so no browser opens the page")
    def test_a_browser_shows_every_plot(self):
        # The page measures itself: a plot that the browser drew has a size.
        probe = ("<script>document.title = Array.from(document.querySelectorAll('svg.plot')).map(function (plot) {"
                 " return plot.getBoundingClientRect().width * plot.getBBox().height; }).filter(function (area) {"
                 " return area > 1000; }).length + ' drawn';</script></body>")
        page = self.path / "probe.html"
        page.write_text(self.page.read_text().replace("</body>", probe))
        dom = screenshot_report.browse(page, "--dump-dom").stdout
        self.assertIn(f"<title>{len(self.plots())} drawn</title>", dom)
        for dark in (False, True):
            picture = self.path / "picture.png"
            self.assertIsNone(screenshot_report.take(self.page, picture, 900, 900, dark))
            self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
            self.assertGreater(picture.stat().st_size, 20_000)

    def test_a_picture_of_nothing_is_an_error(self):
        problem = screenshot_report.take(self.path / "none.html", self.path / "p.png", 100, 100, False)
        self.assertIn("no such page", problem)


if __name__ == "__main__":
    unittest.main()

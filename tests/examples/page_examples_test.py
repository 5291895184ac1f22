# SPDX-License-Identifier: Apache-2.0

"""The examples on the documentation pages compile, run, and print what the pages say."""

import os
import pathlib
import re
import sys
import tempfile
import unittest

import page_examples
import programs
from page_examples import examples, program_names, python_program

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def lines(text):
    return sorted(text.splitlines())


class PageTest(programs.ProgramTest):
    def expect(self, result, example):
        """Ranks print in any order."""
        self.assertEqual(lines(self.succeed(result)), lines(example.output), result)


class Cpp(PageTest):
    """Each program of docs/cpp.md; the build compiles them."""

    PAGE = DOCS / "cpp.md"

    def test_programs(self):
        found = examples(self.PAGE, "cpp")
        for name, example in zip(program_names(self.PAGE, len(found)), found):
            with self.subTest(name):
                self.assertTrue(example.output, f"{self.PAGE}: program {name} has no text of what it prints")
                self.expect(programs.run(programs.BIN / "page_examples" / name), example)

    def test_what_they_cover(self):
        code = "".join(example.code for example in examples(self.PAGE, "cpp"))
        for name in ("SyncBatchNorm layer", "JointCall", "run_ranks", "create_group", "all_reduce_sum"):
            self.assertIn(name, code)


class Python(PageTest):
    """The Python on a page, as one program. SYNCBN_TEST_PYTHON: the interpreter, with the package on its path."""

    def run_page(self, page, **environment):
        example = python_program(page)
        self.assertTrue(example.code, page)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "page.py"
            file.write_text(example.code, encoding="utf-8")
            self.expect(programs.run(os.environ["SYNCBN_TEST_PYTHON"], "-B", file, env=programs.environment(**environment)),
                        example)

    def test_python(self):
        self.run_page(DOCS / "python.md")
        code = python_program(DOCS / "python.md").code
        for name in ("syncbn.SyncBatchNorm(", "run_ranks", "create_group", "all_reduce_sum"):
            self.assertIn(name, code)

    def test_readmes(self):
        for readme in ("README.md", "README.zh-CN.md"):
            with self.subTest(readme):
                self.run_page(ROOT / readme)

    def test_pytorch(self):
        self.run_page(DOCS / "pytorch.md", RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(programs.free_ports()))

    def test_deployment(self):
        self.run_page(DOCS / "deployment.md")


class Pages(unittest.TestCase):
    """Examples are found, none is left out unseen, and links lead somewhere."""

    def test_every_block_runs_or_says_why_not(self):
        run = {("cpp.md", "cpp"), ("README.md", "cpp"), ("python.md", "python"), ("pytorch.md", "python"),
               ("deployment.md", "python"),
               ("README.md", "python"), ("README.zh-CN.md", "python")}
        for page in [ROOT / "README.md", ROOT / "README.zh-CN.md", *DOCS.glob("*.md")]:
            for language in ("cpp", "python"):
                with self.subTest(page=page.name, language=language):
                    found = bool(examples(page, language))
                    self.assertEqual(found, (page.name, language) in run, "run it, or mark it <!-- not run: why -->")

    def test_links(self):
        """Every relative link names a file, and a heading in it if it has a fragment."""
        def anchors(page):
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
            return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

        pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
        self.assertGreater(len(pages), 12)
        for page in pages:
            for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
                with self.subTest(page=page.name, link=link):
                    name, _, fragment = link.partition("#")
                    target = page.parent / name if name else page
                    self.assertTrue(target.exists())
                    if fragment:
                        self.assertIn(fragment, anchors(target))

    def test_extraction(self):
        """Control: blocks, their output, their marks and other text are told apart."""
        page = "```cpp\na\n```\n\n```text\n1\n```\nwords\n```text\n2\n```\n<!-- not run: x -->\n```cpp\nb\n```\n\n" \
               "```text\n3\n```\n\n```cpp\nc\n```\nwords\n\n```text\n4\n```\n"
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "page.md"
            file.write_text(page)
            self.assertEqual([(e.code, e.output) for e in examples(file, "cpp")], [("a\n", "1\n"), ("c\n", "")])
            self.assertEqual(examples(file, "python"), [])

    def test_comparison_can_fail(self):
        """Control: another number in the page's text is a failure."""
        page = "```python\nprint('rank 0: 2')\nprint('rank 1: 3')\n```\n\n```text\nrank 1: 3\nrank 0: %d\n```\n"
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "page.md"
            test = PageTest()
            for shown, fails in ((2, False), (4, True)):
                file.write_text(page % shown)
                example = page_examples.python_program(file)
                result = programs.run(sys.executable, "-c", example.code)
                if fails:
                    self.assertRaises(AssertionError, test.expect, result, example)
                else:
                    test.expect(result, example)


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0

"""The examples on the documentation pages compile, run, and print what the pages say."""

import os
import pathlib
import re
import sys
import tempfile
import unittest

import links
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
        for name in ("SyncBatchNorm layer", "JointCall", "run_ranks", "create_group", "all_reduce_sum", "all_reduce_matmul"):
            self.assertIn(name, code)


class Python(PageTest):
    """The Python on a page, as one program. SYNCBN_TEST_PYTHON: the interpreter, with the package on its path."""

    PYTHON = os.environ.get("SYNCBN_TEST_PYTHON")

    def run_page(self, page, *launcher):
        example = python_program(page)
        self.assertTrue(example.code, page)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "page.py"
            file.write_text(example.code, encoding="utf-8")
            result = programs.run(*launcher, self.PYTHON, "-B", file)
            result.out = re.sub(r"^\[\d+\] ", "", result.out, flags=re.M)  # syncbn-run's
            self.expect(result, example)

    def test_python(self):
        self.run_page(DOCS / "python.md")
        code = python_program(DOCS / "python.md").code
        for name in ("syncbn.SyncBatchNorm(", "run_ranks", "create_group", "all_reduce_sum", "all_reduce_matmul"):
            self.assertIn(name, code)

    def test_readmes(self):
        for readme in ("README.md", "README.zh-CN.md"):
            with self.subTest(readme):
                self.run_page(ROOT / readme)

    def test_reproducible(self):
        self.run_page(DOCS / "reproducible.md")

    def test_pytorch(self):
        """The page's script prints the same however it is started."""
        with tempfile.TemporaryDirectory() as logs:
            for launcher in ((), (self.PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"),
                             (programs.BIN / "syncbn-run", "-n", "2", "--join=True", f"--log_dir={logs}")):
                with self.subTest(launcher=launcher):
                    self.run_page(DOCS / "pytorch.md", *launcher)

    def test_deployment(self):
        self.run_page(DOCS / "deployment.md")


class Pages(unittest.TestCase):
    """Examples are found, none is left out unseen, and links lead somewhere."""

    def test_every_block_runs_or_says_why_not(self):
        run = {("cpp.md", "cpp"), ("README.md", "cpp"), ("python.md", "python"), ("pytorch.md", "python"),
               ("deployment.md", "python"),
               ("reproducible.md", "python"),
               ("README.md", "python"), ("README.zh-CN.md", "python"), ("README.zh-CN.md", "cpp")}
        for page in [ROOT / "README.md", ROOT / "README.zh-CN.md", *DOCS.glob("*.md")]:
            for language in ("cpp", "python"):
                with self.subTest(page=page.name, language=language):
                    found = bool(examples(page, language))
                    self.assertEqual(found, (page.name, language) in run, "run it, or mark it <!-- not run: why -->")

    def test_links(self):
        """No link is dead, and dead links are found."""
        pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
        self.assertGreater(len(pages), 20)
        self.assertEqual(links.dead_links(pages), [])
        with tempfile.TemporaryDirectory() as folder:  # control
            page = pathlib.Path(folder) / "page.md"
            page.write_text("# A heading\n[1](page.md#a-heading) [2](#a-heading) [3](no.md) [4](#no) [5](page.md#no) [6](https://x.y)")
            self.assertEqual([link for _, link in links.dead_links([page])], ["no.md", "#no", "page.md#no"])

    def test_translations_show_the_same(self):
        """A Chinese page has the programs, commands, outputs and tables of the English one. Comments are translated."""
        def shown(page):
            text = re.sub(r"^<!-- .*? -->$", "", page.read_text(encoding="utf-8"), flags=re.M)
            blocks = re.findall(r"^```\w+\n.*?^```$", text, re.M | re.S)
            return ([re.sub(r"\s*(//|#(?!include)).*$", "", block, flags=re.M) for block in blocks],
                    len(re.findall(r"^\|", text, re.M)), len(re.findall(r"^#+ ", text, re.M)))

        translations = [*ROOT.glob("*.zh-CN.md"), *DOCS.glob("*.zh-CN.md")]
        self.assertEqual(len(translations), 3)
        for chinese in translations:
            with self.subTest(chinese.name):
                self.assertEqual(shown(chinese), shown(chinese.with_name(chinese.name.replace(".zh-CN", ""))))
        # Controls: comments alone are cut, and another page is another.
        self.assertIn("  syncbn::SyncBatchNorm layer(2);\n", "".join(shown(ROOT / "README.md")[0]))
        self.assertNotEqual(shown(DOCS / "from-msrun.zh-CN.md"), shown(DOCS / "from-torchrun.md"))

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

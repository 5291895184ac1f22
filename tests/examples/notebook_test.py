# SPDX-License-Identifier: Apache-2.0

"""The notebook runs in a fresh kernel, and its cells print what the file shows."""

import copy
import pathlib
import unittest

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / "examples" / "notebooks" / "statistics.ipynb"


def shown(notebook):
    """What each cell of code prints, and the kinds of its pictures. Pixels depend on Matplotlib's version."""
    return [[output.get("text") or sorted(output.data) for output in cell.outputs]
            for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook):
    notebook = copy.deepcopy(notebook)
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    return notebook


class Notebook(unittest.TestCase):
    def test_outputs(self):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbformat.validate(notebook)
        self.assertEqual(shown(executed(notebook)), shown(notebook))
        self.assertIn(["image/png", "text/plain"], [output for cell in shown(notebook) for output in cell])

    def test_it_can_fail(self):
        """Controls: another number is seen, and an exception is a failure."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="2\n")]
        self.assertNotEqual(shown(executed(notebook)), shown(notebook))
        notebook.cells[0].source = "1 / 0"
        self.assertRaises(CellExecutionError, executed, notebook)


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0

"""What all pictures of results have in common. Equal results give equal files."""

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "syncbn", "svg.fonttype": "none", "font.size": 9}
import matplotlib.pyplot as plt  # noqa: E402


def save(figure, file, title, machine):
    """Writes the figure with its title; a line below says on which machine, and when, the numbers were measured."""
    figure.suptitle(title)
    figure.text(0.5, 0.005, machine, ha="center", color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)

# SPDX-License-Identifier: Apache-2.0

"""On several ranks under the real msrun: scripts of test functions that pytest runs on every rank."""

import jobs


def test_four_ranks(tmp_path):
    jobs.pytest_on(4, tmp_path, "four_ranks.py")


def test_two_ranks(tmp_path):
    jobs.pytest_on(2, tmp_path, "two_ranks.py")


def test_five_ranks(tmp_path):
    jobs.pytest_on(5, tmp_path, "five_ranks.py")

# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from processes import Ranks


@pytest.fixture(scope="session")
def two_ranks():
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def three_ranks():
    ranks = Ranks(3)
    yield ranks
    ranks.close()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)

# SPDX-License-Identifier: Apache-2.0

"""Rank 1 raises before its call, the others wait for it."""

import numpy as np
import syncbn

syncbn.init()
bn = syncbn.SyncBatchNorm(2)
if syncbn.get_rank() == 1:
    raise LookupError("no data on this rank")
bn(np.ones((2, 2, 2), np.float32))

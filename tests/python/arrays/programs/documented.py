# SPDX-License-Identifier: Apache-2.0

"""MindSpore's documented example, on NumPy arrays."""

import numpy as np
from syncbn import SyncBatchNorm, create_group, get_local_rank, init


def test_sync_batch_norm():
    init()
    group = "0-1"
    rank_ids = [0, 1]
    create_group(group, rank_ids)
    sync_batch_norm = SyncBatchNorm(num_features=2, process_group=group, dtype=np.float32)
    sync_batch_norm.set_train(False)
    input_x = np.linspace(0, 5, 2 * 2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2, 2)
    output_data = sync_batch_norm(input_x)
    np.testing.assert_allclose(output_data, input_x / np.sqrt(1 + 1e-5), rtol=2e-7)

    sync_batch_norm.set_train()
    sync_batch_norm(input_x * (1 + get_local_rank()))
    np.testing.assert_allclose(sync_batch_norm.running_mean, [0.275, 0.475], rtol=1e-6)
    print("the statistics of both ranks")

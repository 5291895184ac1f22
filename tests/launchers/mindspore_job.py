# SPDX-License-Identifier: Apache-2.0

"""A job of MindSpore alone: every rank joins, makes a group and sums int64 numbers over it.

mindspore_job.py [RANK]: that rank exits with 7 after the sum while the others wait for it.
"""
import os
import sys
import time

import mindspore
import numpy as np
from mindspore import Tensor, mint
from mindspore.communication import create_group, get_group_size, get_rank, init

mindspore.set_device("CPU")
init()
rank, size = get_rank(), get_group_size()
create_group("all", list(range(size)))
total = Tensor(np.array([rank + 1, 2**62 // size], np.int64))
mint.distributed.all_reduce(total, group="all")
print(f"rank {rank} of {size}: sums {total.asnumpy().tolist()}", flush=True)
if len(sys.argv) > 1:
    if rank == int(sys.argv[1]):
        os._exit(7)
    time.sleep(600)
time.sleep(1)  # MindSpore may crash where a process ends while the threads of its connections still start

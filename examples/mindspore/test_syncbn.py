# SPDX-License-Identifier: Apache-2.0

"""The documented example of mindspore.mint.nn.SyncBatchNorm on CPU, as a test that pytest runs on every worker:

msrun --worker_num=2 --local_worker_num=2 --master_port=8975 --log_dir=msrun_log --join=True --cluster_time_out=100 \
    pytest -s -v test_syncbn.py

syncbn-run, with --ms_scheduler=True, does as well.
"""

import numpy as np
import mindspore
import mindspore.context as context
from syncbn.mindspore import SyncBatchNorm
from mindspore import Tensor
from mindspore.communication import init, create_group, get_local_rank


def test_syncbn():
    init()  # joins the world that the launcher describes
    context.set_context(mode=context.PYNATIVE_MODE, device_target="CPU")
    group = "0-1"
    rank_ids = [0, 1]
    create_group(group, rank_ids)  # every member calls it
    sync_batch_norm = SyncBatchNorm(num_features=2, process_group=group, dtype=mindspore.float32)
    sync_batch_norm.set_train(False)  # evaluation: nothing is synchronized
    input_x = Tensor(np.linspace(0, 5, 2*2*2*2), mindspore.float32).reshape(2, 2, 2, 2)
    output_data = sync_batch_norm(input_x)
    print(output_data)
    np.testing.assert_allclose(output_data.asnumpy(), input_x.asnumpy() / np.sqrt(1 + 1e-5), rtol=1e-6)

    # Training: mean and variance are taken over the samples of both ranks. `dy` is the gradient of the output.
    sync_batch_norm.set_train()
    dy = Tensor((np.arange(2*2*2*2) * 7 % 11 - 5) / 8, mindspore.float32).reshape(2, 2, 2, 2)

    def loss(x):
        output = sync_batch_norm(x)
        return (output * dy).sum(), output

    gradients = mindspore.grad(loss, 0, sync_batch_norm.trainable_params(), has_aux=True)(input_x)
    (dx, (weight_grad, bias_grad)), (output_data,) = gradients

    def check(name, value, expected):
        print(f"local rank {get_local_rank(group)}: {name} {value}")
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)

    check("output", output_data.asnumpy().ravel()[[0, 1, 15]], [-1.3242409, -1.0834699, 1.3242409])
    check("dx", dx.asnumpy().ravel()[:4], [-0.43901431, 0.20511368, -0.14393901, 0.50018898])
    check("gradient of weight", weight_grad.asnumpy(), [-0.55678317, 0.60192762])
    check("gradient of bias", bias_grad.asnumpy(), [-0.875, 1])
    check("running_mean", sync_batch_norm.running_mean.asnumpy(), [0.18333333, 0.31666667])
    check("running_var", sync_batch_norm.running_var.asnumpy(), [1.1044444, 1.1044444])
    check("num_batches_tracked", sync_batch_norm.num_batches_tracked.asnumpy(), 1)

# SPDX-License-Identifier: Apache-2.0
import os
import time

print("ready")
while not os.path.exists(os.environ["DIR"] + "/go"):
    time.sleep(0.005)
print("done")

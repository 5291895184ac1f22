# SPDX-License-Identifier: Apache-2.0
"""40 lines, each written in pieces of the rank's digit."""

import os
import sys
import time

rank = os.environ["RANK"]
for line in range(40):
    for _ in range(5):
        sys.stdout.write(rank * 7)
        sys.stdout.flush()
        time.sleep(0.0005)
    print(" line", line)

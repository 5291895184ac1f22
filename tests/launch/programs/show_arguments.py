# SPDX-License-Identifier: Apache-2.0
import sys

print(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0

"""Becomes the program that the arguments name: msrun starts Python scripts only."""
import os
import sys

os.execv(sys.argv[1], sys.argv[1:])

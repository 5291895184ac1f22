# SPDX-License-Identifier: Apache-2.0

"""Fails if a page below a folder links to a file that is not there: links.py <folder>"""

import pathlib
import re
import sys

folder = pathlib.Path(sys.argv[1])
links = []
for page in sorted(folder.rglob("*.md")):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links += [(page, link) for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)]
dead = [(page, link) for page, link in links if not (page.parent / link).exists()]
for page, link in dead:
    print(f"{page.relative_to(folder)}: {link}")
print(f"{len(dead)} of {len(links)} links are dead")
sys.exit(not links or bool(dead))

# SPDX-License-Identifier: Apache-2.0

"""Fails if a page below a folder has a dead link: links.py <folder>

A relative link is dead if its file does not exist, or if that page has no such heading.
"""

import pathlib
import re
import sys


def text_of(page):
    """Without the blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page):
    return re.findall(r"\]\((?![a-z]+:)([^)\s]+)", text_of(page))


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_dead(page, link):
    name, _, fragment = link.partition("#")
    target = page.parent / name if name else page
    return not target.exists() or (fragment != "" and fragment not in anchors(target))


def dead_links(pages):
    return [(page, link) for page in pages for link in links(page) if is_dead(page, link)]


def main():
    folder = pathlib.Path(sys.argv[1])
    pages = sorted(folder.rglob("*.md"))
    dead = dead_links(pages)
    for page, link in dead:
        print(f"{page.relative_to(folder)}: {link}")
    print(f"{len(dead)} of {sum(len(links(page)) for page in pages)} links are dead")
    sys.exit(not pages or bool(dead))


if __name__ == "__main__":
    main()

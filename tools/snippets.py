#!/usr/bin/env python3
"""Code in README.md and docs/*.md is cut from files that are compiled and run: tools/snippets.py [--check]

A block of C++ in a page stands behind a line

    <!-- snippet: tests/docs/registration.cpp update -->

and is the text between `// begin: update` and `// end: update` in that file, without its indentation. Without an argument the
blocks are written again. With --check nothing is written, and what is wrong is told by file and line: a block that differs, a
block or a marker without the other, a marker whose file or region is missing, a region that no page shows.
"""
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARKER = re.compile(r"<!-- snippet: (\S+) (.+?) -->\s*$")
BORDER = re.compile(r"\s*// (begin|end): (.+?)\s*$")
FENCE = re.compile(r"\s*```\s*(cpp|cc|hpp)\b", re.IGNORECASE)

problems = []


def complain(file, line, text):
    problems.append(f"{file}:{line}: {text}")


def regions_of(file):
    """The regions of a source file: name to (line, text). They may overlap."""
    found, open_ = {}, {}
    for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
        border = BORDER.match(line)
        if not border:
            for _, lines in open_.values():
                lines.append(line)
        elif border[1] == "begin":
            if border[2] in open_ or border[2] in found:
                complain(file, number, f'region "{border[2]}" begins a second time')
            open_[border[2]] = (number, [])
        elif border[2] in open_:
            begin, lines = open_.pop(border[2])
            found[border[2]] = (begin, textwrap.dedent("\n".join(lines)).strip("\n").split("\n"))
            if found[border[2]][1] == [""]:
                complain(file, begin, f'region "{border[2]}" is empty')
        else:
            complain(file, number, f'region "{border[2]}" ends and has not begun')
    for name, (begin, _) in open_.items():
        complain(file, begin, f'region "{name}" has no "// end: {name}"')
    return found


def with_snippets(page, sources, used):
    """The lines of a page with its blocks as the sources have them. Complains about everything that is not so already."""
    made, marker, lines = [], None, (ROOT / page).read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        made.append(line)
        is_code = FENCE.match(line)
        if marker and not is_code:
            complain(page, number - 1, "a marker, and no ```cpp in the next line")
        if is_code and not marker:
            complain(page, number, "C++ without a marker in the line before: <!-- snippet: FILE NAME -->")
        if is_code and marker:
            begin, old = number, []
            while number < len(lines) and lines[number].strip() != "```":
                old.append(lines[number])
                number += 1
            region = sources.get(marker[1], {}).get(marker[2])
            if number == len(lines):
                complain(page, begin, "the block has no end")
                region = None
            elif marker[1] not in sources:
                complain(page, begin - 1, f"there is no {marker[1]} below tests or examples")
            elif not region:
                complain(page, begin - 1, f'{marker[1]} has no region "{marker[2]}"')
            else:
                used.add((marker[1], marker[2]))
                if old != region[1] and "--check" in sys.argv:
                    complain(page, begin, f"differs from {marker[1]}:{region[0]}: run tools/snippets.py")
            made += region[1] if region else old
        marker = MARKER.match(line)
    if marker:
        complain(page, len(lines), "a marker, and nothing behind it")
    return made


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    files = sorted(file.relative_to(ROOT).as_posix() for folder in ("tests", "examples")
                   for file in (ROOT / folder).rglob("*.[ch]pp"))
    sources, used = {file: regions_of(file) for file in files}, set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        made = "\n".join(with_snippets(page.relative_to(ROOT).as_posix(), sources, used)) + "\n"
        if "--check" not in sys.argv and made != page.read_text():
            page.write_text(made)
    for file, regions in sources.items():
        for name, (begin, _) in regions.items():
            if (file, name) not in used:
                complain(file, begin, f'no page shows the region "{name}"')
    print("\n".join(problems) or f"{len(used)} snippets are as the sources have them")
    sys.exit(1 if problems else 0)


main()

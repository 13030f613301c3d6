"""Helps Doxygen with the headers, and checks what it does not. tools/api_docs.sh runs this:

  api_docs.py prepare FROM TO   copies the headers as Doxygen is to read them; no line moves
  api_docs.py check XML         says what the docstrings in Doxygen's XML lack, and fails if that is anything

What is checked: a public function that returns an awaitable or a Generator says which errors it throws and what
cancelling it leaves behind, and a public class says what may be called from which thread. A class says what holds for
all its members, under "Errors:", "Cancellation:" and "Thread safety:"; a member says what is its own. Of an
enumeration, all values have a docstring or none. Names in docs/api.md exist.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ASYNCHRONOUS = re.compile(r"\b(asio::awaitable|Generator)<")
CANCELLATION = re.compile(r"\b[Cc]ancellation\b")
ERRORS = re.compile(r"\bErrors:|\b[Tt]hrows\b")
NOT_ERRORS = re.compile(r"\b[Cc]ancellation\b[^.;]*")  # "Cancellation: throws ..." says nothing of errors
THREADS = re.compile(r"\bThread safety:")

# Members that say by themselves what they do.
DEFAULTED = re.compile(r"^\s.*\)( noexcept| const)* = (default|delete);$")
# Several members in one declaration, such as `std::string region, zone;  ///< text`.
NAMES = r"\w+(?:\{[^{}]*\}| = [^,;{}]+)?"
SEVERAL = re.compile(rf"^(\s+)(?!using |return )([\w:<>, ]+?[\w>]) ({NAMES}(?:, {NAMES})+);(?:\s+///< (.*))?$")
# A metric, whose help text is its docstring.
METRIC = re.compile(r"^inline constexpr Metric \w+\{")


def is_doc(line):
    return line.lstrip().startswith("///")


def prepared(text):
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if DEFAULTED.match(line) and not is_doc(lines[i - 1]):
            lines[i] = ""
        elif line == "template <>" and lines[i + 1].startswith("struct std::"):
            lines[i] = lines[i + 1] = ""  # Doxygen has not seen the template
        elif METRIC.match(line):
            end = next(at for at in range(i, len(lines)) if lines[at].endswith("};"))
            help_text = "".join(lines[i : end + 1]).rsplit('"', 2)[1]
            lines[i] = f"/** {help_text}. */ {line}"
        elif several := SEVERAL.match(line):
            # Doxygen gives the docstring to the first of them only.
            indent, kind, names, words = several.groups()
            first = i
            while words is None and is_doc(lines[first - 1]):
                first -= 1
            words = words or " ".join(each.strip()[4:] for each in lines[first:i])
            if words:
                lines[i] = indent + " ".join(f"{kind} {name}; /**< {words} */" for name in names.split(", "))
                lines[first:i] = [""] * (i - first)
    return "\n".join(lines)


def prepare(source, target):
    for header in sorted(Path(source).rglob("*.hpp")):
        if header.stem.endswith("_impl"):  # what another header declares and documents
            continue
        place = Path(target, header.relative_to(source))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(prepared(header.read_text(encoding="utf-8")), encoding="utf-8")


def text_of(node):
    return " ".join("".join(node.itertext()).split()) if node is not None else ""


def docs_of(node):
    return text_of(node.find("briefdescription")) + " " + text_of(node.find("detaileddescription"))


def place_of(node):
    location = node.find("location")
    return f"include/{location.get('file')}:{location.get('line')}"


def check(folder):
    names, complaints = 0, []
    for path in sorted(Path(folder).glob("*.xml")):
        if not path.name.startswith(("class", "struct", "namespace")):
            continue
        compound = ElementTree.parse(path).getroot().find("compounddef")
        name = text_of(compound.find("compoundname"))
        if compound.get("prot") == "private" or not f"{name}::".startswith("registry::"):
            continue
        own = docs_of(compound)
        names += 1
        if not own.strip():
            complaints.append(f"{place_of(compound)}: {name} has no docstring")
        members = [each for each in compound.iter("memberdef") if each.get("prot") != "private"]
        is_class = compound.get("kind") == "class"
        if is_class and not THREADS.search(own) and any(each.get("kind") == "function" for each in members):
            complaints.append(f'{place_of(compound)}: class {name}: its docstring lacks "Thread safety:"')
        general = own if compound.get("kind") in ("class", "struct") else ""
        for member in members:
            docs = docs_of(member)
            names += 1
            called = f"{place_of(member)}: {text_of(member.find('definition')) or text_of(member.find('name'))}"
            values = member.findall("enumvalue")
            told = [docs_of(value).strip() != "" for value in values]
            names += sum(told)
            if any(told) and not all(told):
                missing = text_of(values[told.index(False)].find("name"))
                complaints.append(f"{called}: {missing} has no docstring and others have")
            if member.get("kind") != "function" or not ASYNCHRONOUS.match(text_of(member.find("type"))):
                continue
            if not ERRORS.search(NOT_ERRORS.sub("", general + docs)):
                complaints.append(f'{called}: neither it nor its class says "Errors:" or "throws"')
            if not CANCELLATION.search(general + docs):
                complaints.append(f'{called}: neither it nor its class says "Cancellation:"')
    # The map: Doxygen makes a link of each name that there is.
    page = ElementTree.parse(Path(folder, "indexpage.xml")).getroot()
    links = list(page.iter("ref"))
    for link in links:
        link.text = ""
    complaints += [f"docs/api.md: there is no {name}" for name in re.findall(r"registry::\w[\w:]*", text_of(page))]
    if names < 100 or not links:
        complaints.append(f"{folder}: {names} names and {len(links)} links found, there should be more")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{names} documented public names")
    return 1 if complaints else 0


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "prepare":
        prepare(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        sys.exit(check(sys.argv[2]))
    else:
        sys.exit(__doc__)

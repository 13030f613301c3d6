#!/usr/bin/env python3
"""Checks conanfile.py and the vcpkg port without Conan or vcpkg: tools/check_recipes.py [project folder].

The version is that of include/registry/version.hpp everywhere, the components are those of CMakeLists.txt, the recipes parse,
and the JSON files say what vcpkg requires. One line for each thing that is wrong; exit code 1 if there is any.
What needs Conan itself is in tools/consumers.sh.
"""

import ast
import json
import re
import sys
from pathlib import Path

project = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
port = Path("packaging/vcpkg/ports/registry")
complaints = []


def complain(file, text):
    complaints.append(f"{file}: {text}")


def read(file):
    try:
        return (project / file).read_text(encoding="utf-8")
    except OSError as error:
        complain(file, f"cannot be read: {error.strerror}")
        return ""


def read_json(file):
    try:
        return dict(json.loads(read(file)))
    except json.JSONDecodeError as error:
        sys.exit(f"{file}: line {error.lineno}: {error.msg}")


def find(pattern, file):
    found = re.search(pattern, read(file))
    if not found:
        complain(file, f"nothing matches {pattern}")
    return found.group(1) if found else ""


def compare(file, what, found, wanted):
    if found != wanted:
        complain(file, f"{what} = {found!r}, and it should be {wanted!r}")


# The fields of https://learn.microsoft.com/vcpkg/reference/vcpkg-json that a manifest or a dependency may have.
MANIFEST = {"$schema", "name", "version", "version-semver", "version-date", "version-string", "port-version", "description",
            "homepage", "documentation", "maintainers", "license", "supports", "dependencies", "features", "default-features",
            "builtin-baseline", "overrides", "configuration", "summary"}
DEPENDENCY = {"name", "host", "features", "default-features", "platform", "version>="}
FEATURE = {"description", "dependencies", "supports", "license"}
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*$")


def dependency_names(file, where, value):
    """The names in a list of dependencies, those for the build machine with "host:" before them."""
    names = []
    for item in value.get("dependencies", []):
        if isinstance(item, str):
            item = {"name": item}
        for field in item.keys() - DEPENDENCY:
            complain(file, f"{where}: a dependency has the unknown field {field!r}")
        name = item.get("name", "")
        if not NAME.match(name):
            complain(file, f"{where}: {name!r} is no name of a port")
        names.append(("host:" if item.get("host") else "") + name)
    return names


def check_manifest(file):
    manifest = read_json(file)
    for field in manifest.keys() - MANIFEST:
        complain(file, f"unknown field {field!r}")
    for name, feature in manifest.get("features", {}).items():
        if not NAME.match(name):
            complain(file, f"{name!r} is no name of a feature")
        for field in feature.keys() - FEATURE:
            complain(file, f"feature {name}: unknown field {field!r}")
        if not feature.get("description"):
            complain(file, f"feature {name}: has no description")
        dependency_names(file, f"feature {name}", feature)
    return manifest


def check_vcpkg(version, components):
    file = port / "vcpkg.json"
    manifest = check_manifest(file)
    for field in ("name", "version-semver", "description", "license", "dependencies"):
        if not manifest.get(field):
            complain(file, f"has no {field}")
    compare(file, "name", manifest.get("name"), port.name)
    compare(file, "version-semver", manifest.get("version-semver"), version)
    features = manifest.get("features", {})
    compare(file, "features", sorted(features), sorted(components))

    needed = set(dependency_names(file, "dependencies", manifest))
    for feature in features.values():
        needed |= set(dependency_names(file, "features", feature))
    for name in ("vcpkg-cmake", "vcpkg-cmake-config"):
        if f"host:{name}" not in needed:
            complain(file, f"has no dependency {name} with host = true")
    # Who builds the project itself needs the same.
    top = check_manifest("vcpkg.json")
    compare("vcpkg.json", "dependencies", sorted(dependency_names("vcpkg.json", "dependencies", top)),
            sorted(name for name in needed if not name.startswith("host:vcpkg-")))

    listed = find(r"foreach\(component IN ITEMS ([a-z ]+)\)", port / "portfile.cmake")
    compare(port / "portfile.cmake", "components", sorted(listed.split()), sorted(components))
    for component in components:
        if component not in read(port / "usage"):
            complain(port / "usage", f"does not name {component}")


# The traits that `requires` and `tool_requires` of a Conan recipe take.
TRAITS = {"headers", "libs", "build", "run", "visible", "transitive_headers", "transitive_libs", "test", "package_id_mode",
          "force", "override", "direct", "options", "no_skip"}


def check_python(file):
    try:
        return ast.parse(read(file), str(file))
    except SyntaxError as error:
        complain(file, f"line {error.lineno}: {error.msg}")
        return None


def check_conan(components):
    check_python("test_package/conanfile.py")
    check_python("tests/consumer/conan_debian/conanfile.py")
    tree = check_python("conanfile.py")
    if not tree:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("requires", "tool_requires"):
            for keyword in node.keywords:
                if keyword.arg not in TRAITS:
                    complain("conanfile.py", f"line {keyword.value.lineno}: unknown trait {keyword.arg!r} of a requirement")
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "options":
            compare("conanfile.py", "options", sorted(ast.literal_eval(node.value)), sorted(f"with_{c}" for c in components))


version = ".".join(re.findall(r"^#define REGISTRY_VERSION_[A-Z]+ (\d+)$", read("include/registry/version.hpp"), re.MULTILINE))
if not re.fullmatch(r"\d+\.\d+\.\d+", version):
    complain("include/registry/version.hpp", f"the version is {version!r}, and it should be three numbers")
components = find(r"set\(all_components ([a-z ]+)\)", "CMakeLists.txt").split()
check_vcpkg(version, components)
check_conan(components)
for complaint in complaints:
    print(complaint, file=sys.stderr)
sys.exit(1 if complaints else 0)

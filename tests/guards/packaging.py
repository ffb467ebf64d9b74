"""The recipes say what the build says: version, license, and for each part of the build the libraries it looks for."""

import argparse
import json
import re

import guard

# find_package's name: vcpkg's and Debian's. xtl is only there because Debian's xsimd asks for it.
NAMES = {
    "xsimd": ("xsimd", "libxsimd-dev"),
    "nlohmann_json": ("nlohmann-json", "nlohmann-json3-dev"),
    "CLI11": ("cli11", "libcli11-dev"),
    "Boost": ("boost-beast", "libboost-dev"),
    "doctest": ("doctest", "doctest-dev"),
    "benchmark": ("benchmark", "libbenchmark-dev"),
    "xtensor": ("xtensor", "libxtensor-dev"),
}
UNLISTED = {"Threads", "xtl"}
MANIFESTS = ("vcpkg.json", "packaging/vcpkg/bitmill/vcpkg.json")


def needed(text):
    """{part of the build, "" for the library: the packages it looks for}, part being X of BITMILL_BUILD_X."""
    parts, open_ifs = {"": set()}, []
    for line in text.splitlines():
        if match := re.match(r"\s*if\((.*)\)", line):
            option = re.fullmatch(r"BITMILL_BUILD_(\w+)", match.group(1))
            open_ifs.append(option.group(1).lower() if option else "")
        elif re.match(r"\s*endif\(", line):
            open_ifs.pop()
        elif match := re.match(r"\s*find_package\((\w+)", line):
            if match.group(1) not in UNLISTED:
                parts.setdefault("".join(open_ifs), set()).add(match.group(1))
    return parts


def listed(dependencies):
    names = [entry if isinstance(entry, str) else entry["name"] for entry in dependencies]
    return {name for name in names if not name.startswith("vcpkg-")}


def check(source, args):
    version = ".".join(re.findall(r"#define BITMILL_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)",
                                  (source / "include/bitmill/version.hpp").read_text()))
    parts = needed((source / "cmake/dependencies.cmake").read_text())
    for name in sorted(set().union(*parts.values()) - set(NAMES)):
        yield f"cmake/dependencies.cmake looks for {name}, which {__file__} does not know"
    vcpkg = {part: {NAMES[name][0] for name in names if name in NAMES} for part, names in parts.items()}

    root, port = (json.loads((source / path).read_text()) for path in MANIFESTS)
    for path, manifest in zip(MANIFESTS, (root, port)):
        if manifest["version-semver"] != version:
            yield f"{path}: version {manifest['version-semver']}, version.hpp says {version}"
        if listed(manifest["dependencies"]) != vcpkg[""]:
            yield f"{path}: dependencies {listed(manifest['dependencies'])}, CMake looks for {vcpkg['']}"
        for part, feature in manifest["features"].items():
            if listed(feature.get("dependencies", [])) != vcpkg.get(part):
                yield f"{path}: feature {part} is {feature}, CMake looks for {vcpkg.get(part)}"
    # Every part is on where bitmill is the project itself.
    features = [sorted(root["features"]), root["default-features"]]
    if features != [sorted(set(vcpkg) - {""})] * 2:
        yield f"vcpkg.json: features {features[0]}, default {features[1]}, CMake has {sorted(set(vcpkg) - {''})}"
    portfile = (source / "packaging/vcpkg/bitmill/portfile.cmake").read_text()
    options = set(re.findall(r"^\s+(\w+) BITMILL_BUILD_(\w+)$", portfile, re.M))
    if options != {(part, part.upper()) for part in port["features"]}:
        yield f"portfile.cmake: features {options}, its vcpkg.json has {sorted(port['features'])}"
    recipe = (source / "conanfile.py").read_text()
    # Those that are on where bitmill is the project itself, as it is for the recipes.
    switches = re.findall(r'option\(BITMILL_BUILD_(\w+) "[^"]*" \$\{PROJECT_IS_TOP_LEVEL\}\)',
                          (source / "cmake/options.cmake").read_text())
    for switch in sorted(set(switches) - {"C"}):
        if switch.lower() not in port["features"] and f"-DBITMILL_BUILD_{switch}=OFF" not in portfile:
            yield f"portfile.cmake leaves BITMILL_BUILD_{switch} as it is"
        if not re.search(rf'["_]{switch}"', recipe):
            yield f"conanfile.py leaves BITMILL_BUILD_{switch} as it is"

    debian = {NAMES[name][1] for part in ("", "cli") for name in parts.get(part, ()) if name in NAMES} | {"xtl-dev"}
    found = set(re.findall(r'"([\w-]+-dev)"', recipe))
    if found != debian:
        yield f"conanfile.py: Debian packages {sorted(found)}, CMake looks for {sorted(debian)}"


# ---- samples ---------------------------------------------------------------------------------------------

MANIFEST = {"version-semver": "1.2.3", "dependencies": ["xsimd", {"name": "vcpkg-cmake", "host": True}],
            "features": {"cli": {"dependencies": ["cli11"]}}}
ROOT = MANIFEST | {"features": MANIFEST["features"] | {"tests": {"dependencies": ["doctest"]}},
                   "default-features": ["cli", "tests"]}
PORTFILE = "vcpkg_check_features(\n    cli BITMILL_BUILD_CLI\n)\n-DBITMILL_BUILD_TESTS=OFF\n"


def sample(name, expected, root=ROOT, port=MANIFEST, portfile=PORTFILE, find="find_package(xsimd 8.1)",
           conan='"libxsimd-dev", "xtl-dev", "libcli11-dev", "CLI", "TESTS"'):
    return name, {
        "include/bitmill/version.hpp": "#define BITMILL_VERSION_MAJOR 1\n#define BITMILL_VERSION_MINOR 2\n"
                                       "#define BITMILL_VERSION_PATCH 3\n",
        "cmake/dependencies.cmake": f"find_package(Threads)\nif(A)\n    {find}\nendif()\nif(BITMILL_BUILD_CLI)\n"
                                    "    find_package(CLI11 2)\nendif()\nif(BITMILL_BUILD_TESTS)\n"
                                    "    find_package(doctest)\nendif()\n",
        "cmake/options.cmake": 'option(BITMILL_BUILD_FUZZERS "" OFF)\n' + "".join(
            f'option(BITMILL_BUILD_{switch} "" ${{PROJECT_IS_TOP_LEVEL}})\n' for switch in ("C", "CLI", "TESTS")),
        "vcpkg.json": json.dumps(root),
        "packaging/vcpkg/bitmill/vcpkg.json": json.dumps(port),
        "packaging/vcpkg/bitmill/portfile.cmake": portfile,
        "conanfile.py": conan,
    }, expected


SAMPLES = [
    sample("in step", None),
    sample("an old port", "vcpkg/bitmill/vcpkg.json: version 1.2.2", port=MANIFEST | {"version-semver": "1.2.2"}),
    sample("an old manifest", "vcpkg.json: version 1.2.2", root=ROOT | {"version-semver": "1.2.2"}),
    sample("a library too few", "vcpkg.json: dependencies", port=MANIFEST | {"dependencies": []}),
    sample("a library too many", "vcpkg.json: dependencies", root=ROOT | {"dependencies": ["xsimd", "xtl"]}),
    sample("a new library", "looks for fmt", find="find_package(fmt)"),
    sample("a feature's library", "feature cli", port=MANIFEST | {"features": {"cli": {}}}),
    sample("an unknown feature", "feature gui", port=MANIFEST | {"features": {"gui": {}}}),
    sample("a feature too few", "vcpkg.json: features", root=ROOT | {"features": MANIFEST["features"]}),
    sample("an option too few", "portfile.cmake: features", portfile=PORTFILE.replace("cli BITMILL", "cli BIT")),
    sample("the tests in the port", "leaves BITMILL_BUILD_TESTS", portfile=PORTFILE.replace("OFF", "ON")),
    sample("an old recipe", "conanfile.py", conan='"libxsimd-dev", "xtl-dev", "CLI", "TESTS"'),
    sample("the tests in the recipe", "conanfile.py leaves BITMILL_BUILD_TESTS",
           conan='"libxsimd-dev", "xtl-dev", "libcli11-dev", "CLI"'),
]

if __name__ == "__main__":
    guard.run(argparse.ArgumentParser(description=__doc__), lambda *arguments: list(check(*arguments)), SAMPLES)

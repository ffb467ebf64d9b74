"""One version everywhere: version.hpp, the CMake project, the command and the newest entry of CHANGELOG.md."""

import argparse
import pathlib
import re
import subprocess

import guard


def check(source, args):
    text = (source / "include/bitmill/version.hpp").read_text()
    parts = [re.search(rf"#define BITMILL_VERSION_{part} (\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH")]
    version = ".".join(parts)
    complaints = []

    entry = re.search(r"^## \[?(\d+\.\d+\.\d+)", (source / "CHANGELOG.md").read_text(), re.M)
    if not entry or entry.group(1) != version:
        complaints.append(f"CHANGELOG.md: the newest entry is {entry and entry.group(1)}, version.hpp says {version}")

    found = args.project_version
    if found and found != version:
        complaints.append(f"CMake's project is {found}, version.hpp says {version}")

    if args.cli:
        shown = subprocess.run([args.cli, "--version"], check=True, text=True, capture_output=True).stdout.strip()
        if version not in shown.split():
            complaints.append(f"bitmill --version says '{shown}', version.hpp says {version}")
    return complaints


def check_sample(root, args):
    cli = root / "cli"
    cli.chmod(0o755)
    return check(root, argparse.Namespace(cli=cli, project_version=(root / "project").read_text()))


def sample(**change):
    files = {
        "include/bitmill/version.hpp": "#define BITMILL_VERSION_MAJOR 1\n#define BITMILL_VERSION_MINOR 2\n"
                                       "#define BITMILL_VERSION_PATCH 3\n",
        "CHANGELOG.md": "# Changes\n\n## 1.2.3\n\n## 1.2.2\n",
        "cli": "#!/bin/sh\necho bitmill 1.2.3\n",
        "project": "1.2.3",
    }
    return files | {name.replace("_", "."): text for name, text in change.items()}


SAMPLES = [
    ("one version", sample(), None),
    ("an old changelog", sample(CHANGELOG_md="## 1.2.2\n"), "CHANGELOG.md: the newest entry is 1.2.2"),
    ("no changelog entry", sample(CHANGELOG_md="# Changes\n"), "CHANGELOG.md: the newest entry is None"),
    ("another command", sample(cli="#!/bin/sh\necho bitmill 1.2.30\n"), "bitmill --version says"),
    ("another project", sample(project="1.2.0"), "CMake's project is 1.2.0"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project-version")
    parser.add_argument("--cli", type=pathlib.Path)
    guard.run(parser, check, SAMPLES, check_sample)

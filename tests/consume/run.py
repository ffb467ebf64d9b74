"""Builds and runs a user's project against bitmill: installed, header-only, shared, or as a subfolder."""

import argparse
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guards"))
import layering

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--way", required=True, choices=["find_package", "headers", "add_subdirectory", "shared"])
for name in ("source", "build", "work"):
    PARSER.add_argument(f"--{name}", required=True, type=pathlib.Path)
for name in ("cmake", "generator", "compiler", "version"):
    PARSER.add_argument(f"--{name}", required=True)
PARSER.add_argument("--prefix-path", default="", help="where bitmill's own dependencies are")


def run(*command):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True)


def configure(args, source, build, *options):
    run(args.cmake, "-S", source, "-B", build, "-G", args.generator, f"-DCMAKE_CXX_COMPILER={args.compiler}",
        "-DCMAKE_BUILD_TYPE=Release", *options)


def install(args, build, prefix):
    shutil.rmtree(prefix, ignore_errors=True)
    run(args.cmake, "--install", build, "--prefix", prefix)
    # A private library must not show in what we install.
    complaints = layering.check(prefix, args)
    assert not complaints, complaints


def main():
    args = PARSER.parse_args()
    work = args.work / args.way
    shutil.rmtree(work, ignore_errors=True)
    prefix, build = work / "prefix", work / "build"
    project = args.source / "tests/consume" / ("find_package" if args.way == "shared" else args.way)
    options = [f"-DEXPECTED_VERSION={args.version}"]
    if args.way == "add_subdirectory":
        options += [f"-DBITMILL_SOURCE={args.source}", f"-DCMAKE_PREFIX_PATH={args.prefix_path}"]
    else:
        installed = args.build
        if args.way == "shared":
            installed = work / "library"
            configure(args, args.source, installed, "-DBUILD_SHARED_LIBS=ON", "-DBITMILL_BUILD_TESTS=OFF",
                      "-DBITMILL_BUILD_BENCH=OFF", "-DBITMILL_BUILD_CLI=OFF", f"-DCMAKE_PREFIX_PATH={args.prefix_path}")
            run(args.cmake, "--build", installed)
        install(args, installed, prefix)
        options += [f"-DCMAKE_PREFIX_PATH={prefix};{args.prefix_path}"]
    configure(args, project, build, *options)
    run(args.cmake, "--build", build)
    run(build / "consumer")


if __name__ == "__main__":
    sys.exit(main())

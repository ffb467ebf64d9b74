"""Every public header compiles alone and twice, as part of bitmill::bitmill and, with BITMILL_TEST_ALL=1, of
bitmill::headers, which takes minutes."""

import argparse
import concurrent.futures
import os
import subprocess

import guard

# libstdc++ 12 makes clang warn about std::stable_sort, hence the exception.
FLAGS = ["-x", "c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion",
         "-Wsign-conversion", "-Wshadow", "-Werror", "-Wno-deprecated-declarations", "-"]
MODES = {"compiled": ["-DBITMILL_COMPILED_LIB"], "headers only": []}


def compile_one(source, args, name, mode):
    folders = ["-I", str(source / "include")]
    for folder in filter(None, args.include.split(":")):
        folders += ["-isystem", folder]
    text = f"#include <{name}>\n#include <{name}>\nint main() {{}}\n"
    done = subprocess.run([args.compiler, *MODES[mode], *folders, *FLAGS], input=text, text=True,
                          capture_output=True)
    return None if done.returncode == 0 else f"{name} ({mode}): {done.stderr.strip()}"


def check(source, args):
    include = source / "include"
    names = [path.relative_to(include).as_posix() for path in sorted(include.rglob("*.hpp"))]
    # The bodies in detail/ are included at the end of their header, never alone.
    every = args.self_test or os.environ.get("BITMILL_TEST_ALL") == "1"
    modes = MODES if every else ["compiled"]
    work = [(name, mode) for name in names if "/detail/" not in name and name not in args.without for mode in modes]
    if not work:
        return [f"{include}: no headers found"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda item: compile_one(source, args, *item), work)
        return [complaint for complaint in done if complaint]


H = "include/bitmill/"
SAMPLES = [
    ("a header that stands alone", {H + "a.hpp": "#pragma once\n#include <string>\ninline std::string s;\n"}, None),
    ("a missing include", {H + "a.hpp": "#pragma once\ninline std::string s;\n"}, "a.hpp (compiled)"),
    ("no include guard", {H + "a.hpp": "struct a {};\n"}, "a.hpp (headers only)"),
    ("broken without the library only",
     {H + "a.hpp": "#pragma once\n#if !defined(BITMILL_COMPILED_LIB)\n#error no\n#endif\n"}, "a.hpp (headers only)"),
    ("a warning", {H + "a.hpp": "#pragma once\ninline int f(long x) { return int{} + short(x) == x; }\n"
                   "inline unsigned g(int x) { return x; }\n"}, "a.hpp"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", default="", help="folders of third-party headers, separated by ':'")
    parser.add_argument("--without", action="append", default=[], help="a header whose library is not installed")
    guard.run(parser, check, SAMPLES)

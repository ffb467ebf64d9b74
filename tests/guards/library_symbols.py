"""The library never prints, aborts, exits or reads the environment: neither its symbols nor its sources.

Symbols catch what macros and inlines bring in; sources catch an assert that NDEBUG hides and templates that
no object of ours instantiates. std::terminate is allowed: noexcept and std::thread force it.
"""

import argparse
import pathlib
import re
import subprocess

import guard

SYMBOLS = {
    "printf", "vprintf", "fprintf", "vfprintf", "dprintf", "puts", "putchar", "putc", "fputs", "fputc", "fwrite",
    "perror", "syslog", "stdout", "stderr", "abort", "exit", "_exit", "_Exit", "quick_exit", "atexit", "getenv",
    "secure_getenv", "setenv", "putenv", "environ", "signal", "sigaction", "raise", "__assert_fail",
    "__printf_chk", "__fprintf_chk", "__vfprintf_chk", "_ZSt4cout", "_ZSt4cerr", "_ZSt4clog",
    "_ZNSt8ios_base4InitC1Ev", "_ZSt21__glibcxx_assert_failPKciS0_S0_",
}
WORDS = re.compile(
    r"(?<![\w.>])(?:std::|::)?(assert|abort|exit|_exit|quick_exit|terminate|getenv|secure_getenv|printf|fprintf|"
    r"puts|perror|signal|sigaction)\s*\(|\bstd::(cout|cerr|clog)\b|#\s*include\s*<(cassert|assert\.h|iostream)>")
NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)


def check_symbols(args, library):
    text = subprocess.run([args.nm, "--undefined-only", "-A", str(library)], check=True, text=True,
                          capture_output=True).stdout
    if not text:
        yield f"{library}: nm lists no symbols"
    for line in text.splitlines():
        place, _, symbol = line.rpartition(": ")
        name = symbol.split()[-1].partition("@")[0]
        if name in SYMBOLS:
            yield f"{place}: refers to {name}"


def blank(match):
    return "\n" * match.group(0).count("\n") or " "


def check_sources(source):
    files = sorted((source / "include").rglob("*.hpp"))
    files += [path for folder in ("src", "capi") for path in sorted((source / folder).rglob("*.[ch]pp"))
              if not path.is_relative_to(source / "src/cli")]
    for path in files:
        text = NOISE.sub(blank, path.read_text())
        for match in WORDS.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path.relative_to(source)}:{line}: {match.group(0).strip()}"


def check(source, args):
    complaints = list(check_sources(source))
    if args.library:
        complaints.extend(check_symbols(args, args.library))
    return complaints


def check_sample(root, args):
    for path in root.glob("*.cpp"):
        subprocess.run([args.compiler, "-std=c++20", "-c", str(path), "-o", str(path.with_suffix(".o"))],
                       check=True)
    complaints = list(check_sources(root))
    for path in root.glob("*.o"):
        complaints.extend(check_symbols(args, path))
    return complaints


SAMPLES = [
    ("clean", {
        "a.cpp": "#include <string>\nstd::string f(int x) { return std::to_string(x) + std::to_string(1.5); }\n",
        "src/a.cpp": "// abort() would be wrong\nstatic_assert(sizeof(int) == 4);\nint f(stream s) { return s.exit(); }\n",
    }, None),
    ("printf", {"a.cpp": '#include <cstdio>\nvoid f(int x) { std::printf("%d", x); }\n'}, "refers to printf"),
    ("assert", {"a.cpp": "#include <cassert>\nvoid f(int x) { assert(x); }\n"}, "refers to __assert_fail"),
    ("abort", {"a.cpp": "#include <cstdlib>\nvoid f() { std::abort(); }\n"}, "refers to abort"),
    ("exit", {"a.cpp": "#include <cstdlib>\nvoid f() { std::exit(1); }\n"}, "refers to exit"),
    ("getenv", {"a.cpp": '#include <cstdlib>\nchar* f() { return std::getenv("A"); }\n'}, "refers to getenv"),
    ("cout", {"a.cpp": '#include <iostream>\nvoid f() { std::cout << "a"; }\n'}, "refers to _ZSt4cout"),
    ("an assert in a header", {"a.cpp": "extern int x; int y = x;",
                               "include/bitmill/a.hpp": "inline void f(int x) {\n    assert(x);\n}\n"}, "a.hpp:2: assert("),
    ("a template that prints", {"a.cpp": "extern int x; int y = x;",
                                "include/bitmill/a.hpp": "template <class T> void f(T x) { std::cerr << x; }\n"},
     "a.hpp:1: std::cerr"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nm", required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--library", type=pathlib.Path)
    guard.run(parser, check, SAMPLES, check_sample)

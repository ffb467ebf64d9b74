"""bitmill.h compiles without a warning in every C from 1989 to 2023 and in C++, alone and twice, and each _INIT
macro sets every field."""

import argparse
import concurrent.futures
import os
import shutil
import subprocess

import c_header
import guard

WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Wshadow", "-Werror", "-fsyntax-only"]
STANDARDS = {"c": ["c89", "c99", "c11", "c17", "c2x"], "c++": ["c++11", "c++14", "c++17", "c++20"]}
# Of C only: in C++ even 0 in a float's place would be a conversion.
C_WARNINGS = ["-Wconversion", "-Wsign-conversion", "-Wstrict-prototypes", "-Wc++-compat"]


def program(text):
    """Uses everything that the header declares."""
    lines = ["#include <bitmill.h>", "#include <bitmill.h>", "void use(const void*);", "void take(void (*)(void));",
             "void everything(void);", "void everything(void) {"]
    names = list(c_header.structs(text))
    for kind in ("static ", ""):
        lines += [f"    {kind}const {name} {kind.strip()}_{name} = {c_header.init_macro(name)};" for name in names]
    lines += [f"    use(&{kind}_{name});" for kind in ("static", "") for name in names]
    lines += [f"    take((void (*)(void)){name});" for name in sorted(c_header.functions(text))]
    return "\n".join([*lines, "}", ""])


def compile_one(source, text, compiler, language, standard):
    command = [compiler, "-x", language, f"-std={standard}", *WARNINGS, *(C_WARNINGS if language == "c" else []),
               "-Wno-cast-function-type", "-I", str(source / "capi"), "-I", str(source / "include"), "-"]
    done = subprocess.run(command, input=program(text), text=True, capture_output=True)
    if done.returncode == 0:
        return None
    first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
    return f"{compiler} {standard}: {first}"


def check(source, args):
    text = c_header.read(source)
    if not c_header.structs(text) or not c_header.functions(text):
        return [f"{c_header.HEADER}: nothing is declared"]
    compilers = [name for name in args.compilers if shutil.which(name)]
    work = [(compiler, language, standard) for compiler in compilers for language in STANDARDS
            for standard in STANDARDS[language]]
    if not work:
        return ["no compiler found"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda item: compile_one(source, text, *item), work))
    return [complaint for complaint in done if complaint]


GOOD = """#ifndef A
#define A
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#define BITMILL_API
typedef struct bitmill_a { uint32_t struct_size; uint32_t more; } bitmill_a; /* one */
#define BITMILL_A_INIT {(uint32_t)sizeof(bitmill_a), 0}
BITMILL_API int bitmill_f(bitmill_a* a);
#ifdef __cplusplus
}
#endif
#endif
"""


def sample(old, new):
    assert old in GOOD, old
    return {c_header.HEADER: GOOD.replace(old, new)}


SAMPLES = [
    ("a right header", {c_header.HEADER: GOOD}, None),
    ("a comment of C++", sample("/* one */", "// one"), "c89"),
    ("a missing include", sample("#include <stdint.h>\n", ""), "c++11"),
    ("no include guard", {c_header.HEADER: GOOD.removeprefix("#ifndef A\n#define A\n").removesuffix("#endif\n")}, "c11"),
    ("a forgotten field", sample("{(uint32_t)sizeof(bitmill_a), 0}", "{(uint32_t)sizeof(bitmill_a)}"), "c99"),
    ("a conversion", sample("{(uint32_t)sizeof(bitmill_a), 0}", "{sizeof(bitmill_a), 0.5}"), "c17"),
    ("no prototype", sample("(bitmill_a* a)", "()"), "c89"),
    ("a keyword of C++", sample("more;", "class;"), "c++20"),
    ("no macro", sample("BITMILL_A_INIT", "BITMILL_B_INIT"), "c2x"),
    ("an empty header", {c_header.HEADER: "\n"}, "nothing is declared"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compilers", nargs="+", required=True, help="of C, which also take -x c++")
    guard.run(parser, check, SAMPLES)

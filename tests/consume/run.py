"""Builds and runs a user's programs, in C++ and in C, against bitmill in each way it can be had.

find_package, headers and shared use what `cmake --install` leaves, add_subdirectory the sources. packages builds the
.deb files and the tarball, which the ways deb and tarball unpack and use. conan and vcpkg follow those recipes, and
run with the Python that tests/consume/requirements.txt was installed for.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guards"))
import layering


# For the ways that build the library once more; all instruction sets are in what find_package and packages use.
ISAS = "neon64" if platform.machine() == "aarch64" else "baseline;avx2"
FEWEST = ISAS.split(";")[0]  # where it is built twice


def run(*command, **options):
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=True, text=True, **options)


def output(*command, **options):
    return run(*command, stdout=subprocess.PIPE, **options).stdout.strip()


def configure(args, source, build, *options):
    run(args.cmake, "-S", source, "-B", build, "-G", args.generator, f"-DCMAKE_CXX_COMPILER={args.compiler}",
        "-DCMAKE_BUILD_TYPE=Release", *options)


def build_library(args, build, *options):
    parts = [f"-DBITMILL_BUILD_{part}=OFF" for part in ("BENCH", "EXAMPLES", "TESTS")]
    configure(args, args.source, build, *parts, "-DBITMILL_WERROR=OFF", f"-DCMAKE_PREFIX_PATH={args.prefix_path}",
              *options)
    run(args.cmake, "--build", build)


def install(args, build, prefix):
    run(args.cmake, "--install", build, "--prefix", prefix)
    check_tree(args, prefix, "*.cmake", "*.pc")


def check_tree(args, prefix, *patterns):
    """A private library must not show in our headers, nor a folder of this machine in any file."""
    complaints = layering.check(prefix, args)
    assert not complaints, complaints
    for path in (path for pattern in patterns for path in prefix.rglob(pattern) if path.is_file()):
        for folder in (args.source, args.work):
            assert str(folder).encode() not in path.read_bytes(), f"{path} names {folder}"


def check_isas(folder, isas=ISAS):
    """Libraries below folder have these instruction sets and no other."""
    libraries = [*folder.rglob("libbitmill.a"), *folder.rglob("libbitmill.so")]
    assert libraries, f"no library in {folder}"
    for library in libraries:
        found = set(re.findall(rb"bitmill_kernels_(\w+)", library.read_bytes()))
        assert found == set(isas.encode().split(b";")), f"{library} has {found}"


# ---- a user's programs -----------------------------------------------------------------------------------


def use_cmake(args, work, project, *options):
    """Builds the user's project and runs all its programs."""
    build = work / project
    configure(args, HERE / project, build, f"-DEXPECTED_VERSION={args.version}", *options)
    run(args.cmake, "--build", build)
    programs = sorted(path for path in build.glob("consumer*") if path.is_file())
    assert programs, f"{project} built no program"
    for program in programs:
        run(program)


def use_pkg_config(args, work, folder):
    """folder holds the .pc files; no other folder is searched."""
    def flags(name, *options):
        return output("pkg-config", *options, name, env=os.environ | {"PKG_CONFIG_LIBDIR": str(folder)}).split()

    def compile_and_run(program, *command):
        run(*command, "-Wall", "-Wextra", "-pedantic-errors", "-Werror", "-o", work / f"pkg_config_{program}",
            f'-DEXPECTED_VERSION="{args.version}"')
        run(work / f"pkg_config_{program}", env=os.environ | {"LD_LIBRARY_PATH": libraries})

    for name in ("bitmill", "bitmill_c"):
        assert flags(name, "--modversion") == [args.version], name
    libraries, = flags("bitmill_c", "--variable=libdir")
    compile_and_run("cpp", args.compiler, "-std=c++20", HERE / "main.cpp", *flags("bitmill", "--cflags", "--libs"))
    c = ("cc", "-std=c99", HERE / "main.c")
    compile_and_run("c", *c, *flags("bitmill_c", "--cflags", "--libs"), "-lm")
    if (pathlib.Path(libraries) / "libbitmill.a").exists():
        compile_and_run("c_static", *c, "-static", *flags("bitmill_c", "--static", "--cflags", "--libs"), "-lm")


def use_prefix(args, work, prefix, libraries):
    for project in ("find_package", "c"):
        use_cmake(args, work, project, f"-DCMAKE_PREFIX_PATH={prefix};{args.prefix_path}")
    use_pkg_config(args, work, prefix / libraries / "pkgconfig")


# ---- installed, or beside the user's sources -------------------------------------------------------------


def library_folder(prefix):
    file, = prefix.rglob("bitmill.pc")
    return file.parent.parent.relative_to(prefix)


def way_find_package(args, work):
    install(args, args.build, work / "prefix")
    for project in ("find_package", "c"):
        use_cmake(args, work, project, f"-DCMAKE_PREFIX_PATH={work / 'prefix'};{args.prefix_path}")


def way_headers(args, work):
    install(args, args.build, work / "prefix")
    use_cmake(args, work, "headers", f"-DCMAKE_PREFIX_PATH={work / 'prefix'};{args.prefix_path}")


def way_shared(args, work):
    build_library(args, work / "library", "-DBUILD_SHARED_LIBS=ON", "-DBITMILL_BUILD_CLI=OFF",
                  f"-DBITMILL_ISAS={ISAS}")
    install(args, work / "library", work / "prefix")
    check_isas(work / "prefix")
    use_prefix(args, work, work / "prefix", library_folder(work / "prefix"))


def way_add_subdirectory(args, work):
    use_cmake(args, work, "add_subdirectory", f"-DBITMILL_SOURCE={args.source}",
              f"-DCMAKE_PREFIX_PATH={args.prefix_path}", f"-DBITMILL_ISAS={ISAS}")
    check_isas(work)


# ---- .deb and .tar.gz ------------------------------------------------------------------------------------


def way_packages(args, work):
    build = args.work / "packages-build"  # kept: a second run compiles nothing
    for generator, prefix in (("TGZ", "/opt/bitmill"), ("DEB", "/usr")):
        build_library(args, build, f"-DCMAKE_INSTALL_PREFIX={prefix}")
        run(pathlib.Path(args.cmake).with_name("cpack"), "-G", generator, "--config", build / "CPackConfig.cmake",
            "-B", work / generator)


def expected_files(args, libraries):
    """What each component holds, and nothing else."""
    headers = {str(path.relative_to(args.source)) for path in (args.source / "include/bitmill").rglob("*.hpp")}
    parts = ("Config", "ConfigVersion", "Targets", "Targets-release")
    config = {f"cmake/bitmill/bitmill{part}.cmake" for part in parts}
    archives = {"libbitmill.a", "libbitmill_c.a", "libbitmill_c.so", "pkgconfig/bitmill.pc", "pkgconfig/bitmill_c.pc"}
    return {
        "development": headers | {"include/bitmill.h", "include/bitmill_manager.h"} | {f"{libraries}/{name}" for name in config | archives},
        "runtime": {f"{libraries}/libbitmill_c.so.{args.abi}"},
        "command": {"bin/bitmill"},
    }


def check_files(prefix, expected):
    found = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    assert found == expected, f"too many: {sorted(found - expected)}, missing: {sorted(expected - found)}"


def way_tarball(args, work):
    archive, = (args.work / "packages/TGZ").glob("*.tar.gz")
    run("tar", "-xzf", archive, "-C", work)
    prefix, = work.iterdir()
    assert prefix.name.startswith(f"bitmill-{args.version}-linux-"), prefix.name
    check_files(prefix, set().union(*expected_files(args, "lib").values(), {"share/doc/bitmill/LICENSE"}))
    check_tree(args, prefix, "*")
    run(prefix / "bin/bitmill", "--version")
    use_prefix(args, work, prefix, "lib")


def way_deb(args, work):
    runtime = f"libbitmill-c{args.abi}"
    components = {"libbitmill-dev": "development", runtime: "runtime", "bitmill": "command"}
    architecture = output("dpkg", "--print-architecture")
    libraries = f"lib/{output('dpkg-architecture', '-qDEB_HOST_MULTIARCH')}"
    expected = expected_files(args, libraries)
    prefix = work / "root/usr"
    assert len(list((args.work / "packages/DEB").glob("*.deb"))) == len(components)
    for package, component in components.items():
        file = args.work / f"packages/DEB/{package}_{args.version}_{architecture}.deb"
        run("dpkg-deb", "-I", file)
        run("dpkg-deb", "-x", file, work / package)
        check_files(work / package / "usr", expected[component] | {f"share/doc/{package}/copyright"})
        run("dpkg-deb", "-x", file, work / "root")
        needs = output("dpkg-deb", "-f", file, "Depends")
        if component == "development":
            assert needs == f"{runtime} (= {args.version})", needs
        else:
            assert {"libc6", "libstdc++6"} <= {need.split()[0] for need in needs.split(",")}, needs
    # What a Debian package that is built against the library will depend on.
    shlibs = output("dpkg-deb", "-I", args.work / f"packages/DEB/{runtime}_{args.version}_{architecture}.deb", "shlibs")
    assert shlibs == f"libbitmill_c {args.abi} {runtime} (>= {args.version})", shlibs
    check_tree(args, prefix, "*")
    run(prefix / "bin/bitmill", "--version")
    use_prefix(args, work, prefix, libraries)


# ---- Conan -----------------------------------------------------------------------------------------------


def way_conan(args, work):
    def conan(*command):
        run(pathlib.Path(sys.executable).with_name("conan"), *command,
            env=os.environ | {"CONAN_HOME": str(work / "home")})

    conan("profile", "detect")
    conan("remote", "remove", "conancenter")
    settings = ["-s:a", "compiler.cppstd=20", "-c:a", f"tools.cmake.cmaketoolchain:generator={args.generator}",
                # Nothing is written into the sources.
                "-c:a", f"tools.cmake.cmake_layout:test_folder={work / 'test'}",
                "-c:a", "tools.cmake.cmaketoolchain:user_presets="]
    for shared in (False, True):
        # The command beside the shared library, which it must find.
        options = ["-o", f"&:shared={shared}", "-o", f"&:with_cli={shared}", "-o", f"&:isas={FEWEST}"]
        conan("create", args.source, "--no-remote", *settings, *options)
        folder = work / f"pkg-config-{shared}"
        conan("install", f"--requires=bitmill/{args.version}", "--no-remote", *settings,
              *[option.replace("&", "bitmill/*") for option in options], "-g", "PkgConfigDeps", "-of", folder)
        use_pkg_config(args, work, folder)
    check_isas(work / "home", FEWEST)


# ---- vcpkg -----------------------------------------------------------------------------------------------


def check_manifests(args):
    import jsonschema  # only this way's Python has it

    schema = json.loads((HERE / "vcpkg.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for path in ("vcpkg.json", "packaging/vcpkg/bitmill/vcpkg.json"):
        manifest = json.loads((args.source / path).read_text())
        validator.validate(manifest)
        for broken in (manifest | {"licens": "MIT"}, manifest | {"version-semver": "0.1"}, manifest | {"name": "a_b"},
                       manifest | {"dependencies": [{"name": "xsimd", "hots": True}]}):
            assert not validator.is_valid(broken), "the schema accepts anything"


def way_vcpkg(args, work):
    check_manifests(args)
    prefix = work / "prefix"
    # The build that the .deb files and the tarball came from: the same options, so nothing is compiled.
    options = {"SOURCE": args.source, "BUILD": args.work / "packages-build", "PREFIX": prefix, "VERSION": args.version,
               "FEATURES": "core;cli", "GENERATOR": args.generator, "COMPILER": args.compiler}
    run(args.cmake, *(f"-D{name}={value}" for name, value in options.items()), "-P", HERE / "vcpkg.cmake")
    moved = work / "moved"
    prefix.rename(moved)
    components = expected_files(args, "lib")
    files = {path.replace("lib/cmake/", "share/") for path in components["development"]} | components["runtime"]
    check_files(moved, files | {"share/bitmill/copyright", "share/bitmill/usage", "tools/bitmill/bitmill"})
    check_tree(args, moved, "*")
    run(moved / "tools/bitmill/bitmill", "--version")
    use_prefix(args, work, moved, "lib")


# ---- arguments -------------------------------------------------------------------------------------------

WAYS = {name.removeprefix("way_"): function for name, function in list(globals().items()) if name.startswith("way_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", required=True, choices=WAYS)
    for name in ("source", "build", "work"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    for name in ("cmake", "generator", "compiler", "version"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--prefix-path", default="", help="where bitmill's own dependencies are")
    args = parser.parse_args()
    header = (args.source / "capi/bitmill.h").read_text()
    args.abi = re.search(r"^#define BITMILL_ABI_VERSION (\d+)", header, re.M).group(1)
    work = args.work / args.way
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    WAYS[args.way](args, work)


if __name__ == "__main__":
    sys.exit(main())

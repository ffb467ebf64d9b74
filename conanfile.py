import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd, stdcpp_library
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rm, rmdir
from conan.tools.system.package_manager import Apt

required_conan_version = ">=2.0"


class Bitmill(ConanFile):
    name = "bitmill"
    license = "Apache-2.0"
    description = "Mills neural-network weights down to 16, 8 and 4 bits"
    topics = ("quantization", "int8", "int4", "simd", "safetensors")
    package_type = "library"
    settings = "os", "compiler", "build_type", "arch"
    # No fPIC: the code is always position independent, since a static libbitmill ends up in shared objects too.
    # isas: CMake's BITMILL_ISAS, for smaller binaries and quicker builds.
    options = {"shared": [True, False], "with_cli": [True, False], "isas": [None, "ANY"]}
    default_options = {"shared": False, "with_cli": False, "isas": None}
    no_copy_source = True  # nothing is written beside the sources
    exports_sources = "CMakeLists.txt", "LICENSE", "capi/*", "cmake/*", "include/*", "src/*"

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "include/bitmill/version.hpp"))
        self.version = ".".join(re.findall(r"#define BITMILL_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text))

    def validate(self):
        check_min_cppstd(self, 20)

    def system_requirements(self):
        # All are headers only. Programs need them for bitmill::headers alone.
        packages = ["libxsimd-dev", "xtl-dev", "nlohmann-json3-dev"]
        if self.options.with_cli:
            packages += ["libcli11-dev", "libboost-dev"]
        Apt(self).install(packages, update=False, check=True)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("BENCH", "EXAMPLES", "TESTS"):
            toolchain.cache_variables[f"BITMILL_BUILD_{part}"] = False
        toolchain.cache_variables["BITMILL_BUILD_CLI"] = bool(self.options.with_cli)
        toolchain.cache_variables["BITMILL_WERROR"] = False
        if self.options.isas:
            toolchain.cache_variables["BITMILL_ISAS"] = str(self.options.isas)
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        # Conan writes these for the user's generator. Of the C library only the kind that was asked for stays.
        library = os.path.join(self.package_folder, "lib")
        for folder in ("cmake", "pkgconfig"):
            rmdir(self, os.path.join(library, folder))
        rmdir(self, os.path.join(self.package_folder, "share"))
        rm(self, "libbitmill_c.a" if self.options.shared else "libbitmill_c.so*", library)

    def package_info(self):
        # Else the name of the whole package would be that of the component bitmill::bitmill.
        self.cpp_info.set_property("cmake_target_name", "bitmill::all")
        self.cpp_info.set_property("pkg_config_name", "bitmill_all")
        components = self.cpp_info.components
        for name, pkg_config in (("bitmill", "bitmill"), ("headers", "bitmill_headers"), ("c", "bitmill_c")):
            components[name].set_property("cmake_target_name", f"bitmill::{name}")
            components[name].set_property("pkg_config_name", pkg_config)
        for name in ("bitmill", "headers"):
            components[name].system_libs = ["pthread"]
        components["bitmill"].libs = ["bitmill"]
        components["bitmill"].defines = ["BITMILL_COMPILED_LIB"]
        components["headers"].libdirs = components["headers"].bindirs = []
        components["c"].libs = ["bitmill_c"]
        if not self.options.shared:
            components["c"].requires = ["bitmill"]
            # A program in C alone is linked by the C compiler, which does not bring the C++ runtime.
            components["bitmill"].system_libs += [stdcpp_library(self), "m"]

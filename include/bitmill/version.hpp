/* Where the version is written. CMake, Conan, the tests, bitmill.h and every binding read it from here; the vcpkg.json files
 * must repeat it, and a test compares them. */
#pragma once

#define BITMILL_VERSION_MAJOR 0
#define BITMILL_VERSION_MINOR 1
#define BITMILL_VERSION_PATCH 0

#define BITMILL_VERSION_TEXT_2(major, minor, patch) #major "." #minor "." #patch
#define BITMILL_VERSION_TEXT_1(major, minor, patch) BITMILL_VERSION_TEXT_2(major, minor, patch)
#define BITMILL_VERSION_TEXT \
    BITMILL_VERSION_TEXT_1(BITMILL_VERSION_MAJOR, BITMILL_VERSION_MINOR, BITMILL_VERSION_PATCH)

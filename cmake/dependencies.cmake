find_package(Threads REQUIRED)
if(BITMILL_XSIMD_INCLUDE_DIR)
    add_library(xsimd INTERFACE IMPORTED)
    target_include_directories(xsimd INTERFACE "${BITMILL_XSIMD_INCLUDE_DIR}")
else()
    # Debian's xsimd target links a target `xtl` that its own config never looks for; others come without it.
    find_package(xtl CONFIG QUIET)
    # No version in the call: xsimd's config refuses to serve as an older major version, and 8.1 to 14 all do.
    find_package(xsimd CONFIG REQUIRED)
    if(xsimd_VERSION VERSION_LESS 8.1)
        message(FATAL_ERROR "bitmill needs xsimd 8.1 or newer; ${xsimd_DIR} has ${xsimd_VERSION}")
    endif()
endif()
find_package(nlohmann_json 3.11 CONFIG REQUIRED)
if(BITMILL_BUILD_CLI)
    find_package(CLI11 2.1 CONFIG REQUIRED)
    find_package(Boost 1.74 CONFIG QUIET)  # Asio and Beast, headers only
endif()
if(BITMILL_BUILD_TESTS)
    find_package(doctest 2.4 CONFIG REQUIRED)
    find_package(Boost 1.74 CONFIG QUIET)
    # For the tests of bitmill/xtensor.hpp alone.
    set(xtensor_needed REQUIRED)
    if(CMAKE_CROSSCOMPILING)
        set(xtensor_needed QUIET)  # Debian has it for the machine's own processor only
    endif()
    find_package(xtensor 0.24 CONFIG ${xtensor_needed})
endif()
if(BITMILL_BUILD_BENCH)
    find_package(benchmark 1.7 CONFIG REQUIRED)
endif()

# `bitmill serve`, and the tests of what it is made of.
set(bitmill_with_server OFF)
if(BITMILL_BUILD_SERVER AND (BITMILL_BUILD_CLI OR BITMILL_BUILD_TESTS))
    if(TARGET Boost::headers)
        set(bitmill_with_server ON)
    else()
        message(STATUS "No Boost 1.74 or newer: the command is built without `serve`")
    endif()
endif()

# The private libraries are headers only. Taking their folders instead of linking their targets keeps them
# out of the link interface: an imported target is not visible in the folder of an add_subdirectory consumer.
function(bitmill_use_headers_of target)
    foreach(library IN LISTS ARGN)
        target_include_directories(${target} SYSTEM PRIVATE
            "$<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>")
    endforeach()
endfunction()

set(bitmill_header_dependencies)
foreach(library xsimd nlohmann_json::nlohmann_json)
    get_target_property(folders ${library} INTERFACE_INCLUDE_DIRECTORIES)
    list(APPEND bitmill_header_dependencies ${folders})
endforeach()
list(REMOVE_DUPLICATES bitmill_header_dependencies)

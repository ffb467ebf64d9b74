# Runs packaging/vcpkg/bitmill/portfile.cmake without vcpkg, release only: cmake -DSOURCE= -DBUILD= -DPREFIX=
# -DVERSION= -DFEATURES= -DGENERATOR= -DCOMPILER= -P vcpkg.cmake. Only the download is replaced, by the checkout; the
# others do what vcpkg's functions of these names do.
cmake_minimum_required(VERSION 3.25)
set(PORT bitmill)
set(CURRENT_PACKAGES_DIR "${PREFIX}")

function(run)
    execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY COMMAND_ECHO STDOUT)
endfunction()

function(vcpkg_from_github)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "OUT_SOURCE_PATH;REPO;REF;SHA512;HEAD_REF" "")
    if(arg_UNPARSED_ARGUMENTS OR NOT arg_REPO OR NOT arg_REF STREQUAL "v${VERSION}" OR NOT DEFINED arg_SHA512)
        message(FATAL_ERROR "vcpkg_from_github(${ARGV})")
    endif()
    set(${arg_OUT_SOURCE_PATH} "${SOURCE}" PARENT_SCOPE)
endfunction()

function(vcpkg_check_features)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "OUT_FEATURE_OPTIONS" "FEATURES")
    while(arg_FEATURES)
        list(POP_FRONT arg_FEATURES feature option)
        if(feature IN_LIST FEATURES)
            list(APPEND options "-D${option}=ON")
        else()
            list(APPEND options "-D${option}=OFF")
        endif()
    endwhile()
    set(${arg_OUT_FEATURE_OPTIONS} "${options}" PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
    run("${CMAKE_COMMAND}" -S "${arg_SOURCE_PATH}" -B "${BUILD}" -G "${GENERATOR}" -DCMAKE_BUILD_TYPE=Release
        "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_INSTALL_PREFIX=${PREFIX}"
        -DBUILD_SHARED_LIBS=OFF ${arg_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
    run("${CMAKE_COMMAND}" --build "${BUILD}" --target install)
endfunction()

function(vcpkg_cmake_config_fixup)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "CONFIG_PATH" "")
    file(MAKE_DIRECTORY "${PREFIX}/share")
    file(RENAME "${PREFIX}/${arg_CONFIG_PATH}" "${PREFIX}/share/${PORT}")
    file(REMOVE_RECURSE "${PREFIX}/lib/cmake")
    # share/PORT is two folders deep.
    set(up "get_filename_component(_IMPORT_PREFIX \"\${_IMPORT_PREFIX}\" PATH)\n")
    file(GLOB files "${PREFIX}/share/${PORT}/*.cmake")
    foreach(file IN LISTS files)
        file(READ "${file}" text)
        string(REPLACE "${up}${up}${up}" "${up}${up}" text "${text}")
        string(REPLACE "CMAKE_CURRENT_LIST_DIR}/../../../" "CMAKE_CURRENT_LIST_DIR}/../../" text "${text}")
        file(WRITE "${file}" "${text}")
    endforeach()
endfunction()

# Makes paths relative to the file, which ours are.
function(vcpkg_fixup_pkgconfig)
endfunction()

function(vcpkg_copy_tools)
    cmake_parse_arguments(PARSE_ARGV 0 arg "AUTO_CLEAN" "" "TOOL_NAMES")
    foreach(tool IN LISTS arg_TOOL_NAMES)
        file(COPY "${PREFIX}/bin/${tool}" DESTINATION "${PREFIX}/tools/${PORT}")
    endforeach()
    if(arg_AUTO_CLEAN)
        file(REMOVE_RECURSE "${PREFIX}/bin")
    endif()
endfunction()

function(vcpkg_install_copyright)
    cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
    file(INSTALL ${arg_FILE_LIST} DESTINATION "${PREFIX}/share/${PORT}" RENAME copyright)
endfunction()

include("${SOURCE}/packaging/vcpkg/bitmill/portfile.cmake")

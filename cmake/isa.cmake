# The kernels are one source, src/kernels/isa.cpp, compiled once per instruction set. Afterwards each object
# keeps a single global symbol, its table: a weak function (say std::min) compiled with AVX2 could otherwise
# be the copy that the linker picks for everybody, and crash on a CPU without AVX2.

set(bitmill_flags_baseline "")
set(bitmill_flags_avx2 -mavx2 -mfma -mf16c)
set(bitmill_flags_avxvnni -mavxvnni ${bitmill_flags_avx2})
set(bitmill_flags_avx512bw -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd ${bitmill_flags_avx2})
set(bitmill_flags_avx512vnni -mavx512vnni ${bitmill_flags_avx512bw})
set(bitmill_flags_neon64 "")
set(bitmill_flags_neon64_dotprod -march=armv8.2-a+dotprod)

# The first runs on every CPU of its kind.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(bitmill_isas baseline avx2 avxvnni avx512bw avx512vnni)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
    set(bitmill_isas neon64 neon64_dotprod)
else()
    set(bitmill_isas baseline)
endif()

# Leaves of bitmill_isas what BITMILL_ISAS names.
function(bitmill_choose_isas)
    foreach(isa IN LISTS BITMILL_ISAS)
        if(NOT isa IN_LIST bitmill_isas)
            message(FATAL_ERROR "BITMILL_ISAS names '${isa}'; for ${CMAKE_SYSTEM_PROCESSOR} there are: ${bitmill_isas}")
        endif()
    endforeach()
    list(GET bitmill_isas 0 first)
    if(NOT first IN_LIST BITMILL_ISAS)
        message(FATAL_ERROR "BITMILL_ISAS is '${BITMILL_ISAS}' without '${first}', which alone runs on every CPU: add it")
    endif()
    set(chosen)
    foreach(isa IN LISTS bitmill_isas)
        if(isa IN_LIST BITMILL_ISAS)
            list(APPEND chosen ${isa})
        endif()
    endforeach()
    set(bitmill_isas ${chosen} PARENT_SCOPE)
endfunction()
if(NOT BITMILL_ISAS STREQUAL "")
    bitmill_choose_isas()
endif()

# The bits of a result may depend on neither the build type nor the host project's flags.
# -fno-math-errno changes no value: it only lets sqrt be one instruction.
# Nor on the optimiser's level, which is left to the sanitizers' builds: theirs compile three times as long at -O2.
set(bitmill_numeric_flags "$<$<NOT:$<BOOL:${BITMILL_SANITIZE}>>:-O2>" -ffp-contract=off -fno-fast-math -fno-math-errno)

function(bitmill_configure_numeric target)
    target_compile_options(${target} PRIVATE ${bitmill_numeric_flags})
endfunction()

function(bitmill_check_localizer)
    if(NOT CMAKE_LINKER OR NOT CMAKE_OBJCOPY)
        message(FATAL_ERROR "bitmill needs ld and objcopy (Debian: binutils); set CMAKE_LINKER, CMAKE_OBJCOPY")
    endif()
    execute_process(COMMAND "${CMAKE_LINKER}" --help OUTPUT_VARIABLE help ERROR_QUIET)
    if(NOT help MATCHES "force-group-allocation")
        message(FATAL_ERROR "${CMAKE_LINKER} lacks --force-group-allocation: use GNU ld 2.29 or newer, or lld 19")
    endif()
endfunction()

function(bitmill_add_isa_objects library)
    bitmill_check_localizer()
    if(BITMILL_SANITIZE STREQUAL "address")
        # clang's flag that the program's globals are registered; a private copy would register them twice.
        set(keep_for_sanitizer --keep-global-symbol=___asan_globals_registered)
    endif()
    foreach(isa IN LISTS bitmill_isas)
        set(target bitmill_isa_${isa})
        set(symbol bitmill_kernels_${isa})
        add_library(${target} OBJECT src/kernels/isa.cpp)
        bitmill_configure_numeric(${target})
        # An object of an LTO build holds no code yet, so there would be nothing to make local. Kernels do not
        # throw; without exceptions the object needs nothing of the C++ runtime either.
        target_compile_options(${target} PRIVATE -fno-lto -fno-exceptions ${bitmill_flags_${isa}})
        if(BITMILL_SANITIZE STREQUAL "address")
            # Every vector in a wrapper that is inlined is a scope: clang takes 264 s to watch them all, 80 s without.
            target_compile_options(${target} PRIVATE -fno-sanitize-address-use-after-scope)
        endif()
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            # objcopy cannot make a unique symbol local, which an inline variable would be.
            target_compile_options(${target} PRIVATE -fno-gnu-unique)
        endif()
        target_compile_definitions(${target} PRIVATE BITMILL_COMPILED_LIB BITMILL_ISA=${isa})
        target_compile_features(${target} PRIVATE cxx_std_20)
        target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/include")
        bitmill_use_headers_of(${target} xsimd)
        bitmill_set_warnings(${target})
        if(isa MATCHES "^avx512" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
            # GCC bug 105593: its own AVX-512 intrinsics initialise a register with itself.
            target_compile_options(${target} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
        endif()
        set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON
                              INTERPROCEDURAL_OPTIMIZATION OFF)

        set(folder "${PROJECT_BINARY_DIR}/isa")
        set(object "${folder}/${isa}.o")
        # Groups are dissolved first: a function in a COMDAT group would be dropped at link time in favour
        # of another object's copy even when its symbol is local.
        add_custom_command(OUTPUT "${object}"
            COMMAND "${CMAKE_COMMAND}" -E make_directory "${folder}"
            COMMAND "${CMAKE_LINKER}" -r --force-group-allocation -o "${folder}/${isa}.all.o"
                    "$<TARGET_OBJECTS:${target}>"
            COMMAND "${CMAKE_OBJCOPY}" --keep-global-symbol=${symbol} ${keep_for_sanitizer}
                    "${folder}/${isa}.all.o" "${object}"
            DEPENDS ${target} "$<TARGET_OBJECTS:${target}>"
            COMMENT "Keeping only ${symbol} of the ${isa} kernels"
            COMMAND_EXPAND_LISTS VERBATIM)
        set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
        target_sources(${library} PRIVATE "${object}")
        string(TOUPPER "BITMILL_HAVE_${isa}" have)
        target_compile_definitions(${library} PRIVATE ${have})
        set_property(GLOBAL APPEND PROPERTY bitmill_isa_objects "${object}")
    endforeach()
endfunction()

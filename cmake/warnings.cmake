function(bitmill_set_warnings target)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow)
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
        # libstdc++ 12 uses its own deprecated get_temporary_buffer inside std::stable_sort.
        target_compile_options(${target} PRIVATE -Wno-deprecated-declarations)
    endif()
    if(BITMILL_WERROR)
        target_compile_options(${target} PRIVATE -Werror)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            # g++ 12 warns falsely on plain concatenation of std::string.
            target_compile_options(${target} PRIVATE -Wno-error=restrict)
            if(BITMILL_SANITIZE)
                # Instrumented code hides from g++ 12 that std::regex fills its own members.
                target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
            endif()
        endif()
    endif()
endfunction()

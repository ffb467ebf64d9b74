# For the whole folder, so that library, kernels and tests agree.
if(BITMILL_SANITIZE STREQUAL "address")
    # float-cast-overflow is not part of `undefined`, and a code rounded out of range is our likeliest bug.
    set(bitmill_sanitizers -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all)
elseif(BITMILL_SANITIZE STREQUAL "thread")
    set(bitmill_sanitizers -fsanitize=thread)
elseif(NOT BITMILL_SANITIZE STREQUAL "")
    message(FATAL_ERROR "BITMILL_SANITIZE is '${BITMILL_SANITIZE}': use address, thread or nothing")
endif()
if(BITMILL_SANITIZE)
    add_compile_options(${bitmill_sanitizers} -fno-omit-frame-pointer)
    add_link_options(${bitmill_sanitizers})
endif()

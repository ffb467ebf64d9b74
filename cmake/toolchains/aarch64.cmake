# Debian's cross compiler; programs run under qemu. QEMU_CPU chooses the CPU that it plays, as in the test presets.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu)
# Headers only, but its CMake file lies in the folder of the host's libraries.
file(GLOB xsimd_DIR /usr/lib/*-linux-gnu/cmake/xsimd)

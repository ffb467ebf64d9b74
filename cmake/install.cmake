include(CMakePackageConfigHelpers)

set(bitmill_cmake_folder "${CMAKE_INSTALL_LIBDIR}/cmake/bitmill")
install(TARGETS bitmill bitmill_headers EXPORT bitmillTargets)
if(TARGET bitmill_c)
    install(TARGETS bitmill_c bitmill_c_static EXPORT bitmillTargets)
    install(FILES capi/bitmill.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
endif()
if(TARGET bitmill_cli)
    install(TARGETS bitmill_cli)
endif()
install(DIRECTORY include/bitmill DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(EXPORT bitmillTargets NAMESPACE bitmill:: DESTINATION "${bitmill_cmake_folder}")
configure_package_config_file(cmake/bitmillConfig.cmake.in "${PROJECT_BINARY_DIR}/bitmillConfig.cmake"
    INSTALL_DESTINATION "${bitmill_cmake_folder}")
# Before 1.0 a minor version may break its users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/bitmillConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/bitmillConfig.cmake" "${PROJECT_BINARY_DIR}/bitmillConfigVersion.cmake"
    DESTINATION "${bitmill_cmake_folder}")

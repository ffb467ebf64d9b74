include(CMakePackageConfigHelpers)

# Components: `runtime` what a linked program needs, `development` what linking needs, `command`.
set(bitmill_cmake_folder "${CMAKE_INSTALL_LIBDIR}/cmake/bitmill")
set(bitmill_pkgconfig_folder "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
set(bitmill_libraries bitmill bitmill_headers)
set(bitmill_pkgconfig_files bitmill.pc)
if(TARGET bitmill_c)
    list(APPEND bitmill_libraries bitmill_c bitmill_c_static)
    list(APPEND bitmill_pkgconfig_files bitmill_c.pc)
    install(FILES capi/bitmill.h capi/bitmill_manager.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development)
endif()
if(BUILD_SHARED_LIBS AND TARGET bitmill_c)
    set_target_properties(bitmill_c PROPERTIES INSTALL_RPATH "$ORIGIN")
endif()
install(TARGETS ${bitmill_libraries} EXPORT bitmillTargets
        ARCHIVE COMPONENT development
        LIBRARY COMPONENT runtime NAMELINK_COMPONENT development)
if(TARGET bitmill_cli)
    if(BUILD_SHARED_LIBS)
        file(RELATIVE_PATH folder "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
        set_target_properties(bitmill_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${folder}")
    endif()
    install(TARGETS bitmill_cli COMPONENT command)
endif()
install(DIRECTORY include/bitmill DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development
        FILES_MATCHING PATTERN "*.hpp")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")

install(EXPORT bitmillTargets NAMESPACE bitmill:: DESTINATION "${bitmill_cmake_folder}" COMPONENT development)
configure_package_config_file(cmake/bitmillConfig.cmake.in "${PROJECT_BINARY_DIR}/bitmillConfig.cmake"
    INSTALL_DESTINATION "${bitmill_cmake_folder}")
# Before 1.0 a minor version may break its users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/bitmillConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/bitmillConfig.cmake" "${PROJECT_BINARY_DIR}/bitmillConfigVersion.cmake"
    DESTINATION "${bitmill_cmake_folder}" COMPONENT development)

# From its own folder, so that a .pc file holds wherever the tree is moved to.
file(RELATIVE_PATH bitmill_up "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
cmake_path(APPEND bitmill_pkgconfig_libdir "\${prefix}" "${CMAKE_INSTALL_LIBDIR}")
cmake_path(APPEND bitmill_pkgconfig_includedir "\${prefix}" "${CMAKE_INSTALL_INCLUDEDIR}")
foreach(file IN LISTS bitmill_pkgconfig_files)
    configure_file(cmake/${file}.in "${PROJECT_BINARY_DIR}/${file}" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/${file}" DESTINATION "${bitmill_pkgconfig_folder}" COMPONENT development)
endforeach()

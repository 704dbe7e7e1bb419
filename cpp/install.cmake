# Installs headers, library, command and the CMake package that find_package(moa_rt) finds.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/moa_rt)

# No export macro is needed, and without one a shared library compiles to the objects of a static one.
set_target_properties(moa_rt PROPERTIES VERSION ${PROJECT_VERSION}
                                        SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                                        DEFINE_SYMBOL "")
install(TARGETS moa_rt EXPORT moa_rt-targets COMPONENT moa_rt)
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/include/moa_rt TYPE INCLUDE COMPONENT moa_rt)
install(EXPORT moa_rt-targets NAMESPACE moa_rt:: DESTINATION ${package_dir} COMPONENT moa_rt)

get_target_property(library_type moa_rt TYPE)
configure_package_config_file(${PROJECT_SOURCE_DIR}/third_party/moa_rt-config.cmake.in
                              ${PROJECT_BINARY_DIR}/moa_rt-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moa_rt-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/moa_rt-config.cmake
              ${PROJECT_BINARY_DIR}/moa_rt-config-version.cmake
              ${PROJECT_SOURCE_DIR}/third_party/FindUtf8proc.cmake
        DESTINATION ${package_dir} COMPONENT moa_rt)

if(TARGET moa-rt)
  # The command finds a shared libmoa_rt wherever the tree was installed to.
  file(RELATIVE_PATH library_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(moa-rt PROPERTIES
                        INSTALL_RPATH "$ORIGIN/${library_from_bin};${MOA_RT_CUDA_RPATH}")
  install(TARGETS moa-rt COMPONENT moa_rt)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/python/moa_rt/plans/ DESTINATION share/moa_rt/plans
          COMPONENT moa_rt FILES_MATCHING PATTERN "*.json" PATTERN "__pycache__" EXCLUDE)
endif()

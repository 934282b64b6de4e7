# find_package(exeunt) defines
#   exeunt::exeunt   the shared library
#   exeunt::static   the static library, with the system libraries that it needs
# Both add the folder of exeunt.h and exeunt.hpp. You can require a component: `shared` or `static`.
#
# This file is installed in PREFIX/share/cmake/exeunt. It finds the other files relative to itself,
# so PREFIX may be moved.

get_filename_component(_exeunt_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
find_path(exeunt_INCLUDE_DIR exeunt.h PATHS "${_exeunt_prefix}/include" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
mark_as_advanced(exeunt_INCLUDE_DIR)
if(NOT exeunt_INCLUDE_DIR)
  set(exeunt_FOUND FALSE)
  set(exeunt_NOT_FOUND_MESSAGE "exeunt.h is not in ${_exeunt_prefix}/include")
  return()
endif()

# Which of these folders has the libraries depends on --libdir at installation.
set(_exeunt_libdirs "${_exeunt_prefix}/lib" "${_exeunt_prefix}/lib64")
if(CMAKE_LIBRARY_ARCHITECTURE)
  list(APPEND _exeunt_libdirs "${_exeunt_prefix}/lib/${CMAKE_LIBRARY_ARCHITECTURE}")
endif()

find_library(exeunt_SHARED_LIBRARY
  NAMES "${CMAKE_SHARED_LIBRARY_PREFIX}exeunt${CMAKE_SHARED_LIBRARY_SUFFIX}"
  PATHS ${_exeunt_libdirs} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
find_library(exeunt_STATIC_LIBRARY
  NAMES "${CMAKE_STATIC_LIBRARY_PREFIX}exeunt${CMAKE_STATIC_LIBRARY_SUFFIX}"
  PATHS ${_exeunt_libdirs} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
mark_as_advanced(exeunt_SHARED_LIBRARY exeunt_STATIC_LIBRARY)

if(exeunt_SHARED_LIBRARY AND NOT TARGET exeunt::exeunt)
  add_library(exeunt::exeunt SHARED IMPORTED)
  # A program that links it needs its soname, which CMake reads at link time.
  set_target_properties(exeunt::exeunt PROPERTIES
    IMPORTED_LOCATION "${exeunt_SHARED_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${exeunt_INCLUDE_DIR}")
  set(exeunt_shared_FOUND TRUE)
endif()

if(exeunt_STATIC_LIBRARY AND NOT TARGET exeunt::static)
  # exeunt.pc has the libraries that the static library needs, as rustc reported them when it built
  # it.
  get_filename_component(_exeunt_libdir "${exeunt_STATIC_LIBRARY}" DIRECTORY)
  file(STRINGS "${_exeunt_libdir}/pkgconfig/exeunt.pc" _exeunt_private REGEX "^Libs.private:")
  string(REGEX REPLACE "^Libs.private:" "" _exeunt_private "${_exeunt_private}")
  separate_arguments(_exeunt_private UNIX_COMMAND "${_exeunt_private}")
  add_library(exeunt::static STATIC IMPORTED)
  set_target_properties(exeunt::static PROPERTIES
    IMPORTED_LOCATION "${exeunt_STATIC_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${exeunt_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${_exeunt_private}")
  set(exeunt_static_FOUND TRUE)
endif()
if(TARGET exeunt::exeunt)
  set(exeunt_shared_FOUND TRUE)
endif()
if(TARGET exeunt::static)
  set(exeunt_static_FOUND TRUE)
endif()

set(exeunt_FOUND TRUE)
foreach(_exeunt_component IN LISTS exeunt_FIND_COMPONENTS)
  if(exeunt_FIND_REQUIRED_${_exeunt_component} AND NOT exeunt_${_exeunt_component}_FOUND)
    set(exeunt_FOUND FALSE)
    set(exeunt_NOT_FOUND_MESSAGE "no ${_exeunt_component} library of exeunt in ${_exeunt_libdirs}")
  endif()
endforeach()
if(NOT exeunt_shared_FOUND AND NOT exeunt_static_FOUND)
  set(exeunt_FOUND FALSE)
  set(exeunt_NOT_FOUND_MESSAGE "no library of exeunt in ${_exeunt_libdirs}")
endif()

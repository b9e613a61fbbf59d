# find_package(cinderblock) gives cinderblock::cinderblock, the shared library, and cinderblock::static.
get_filename_component(_cinderblock_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_cinderblock_folders lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
find_path(CINDERBLOCK_INCLUDE_DIR cinderblock.h PATHS "${_cinderblock_prefix}/include" NO_DEFAULT_PATH)

foreach(_cinderblock_kind IN ITEMS SHARED STATIC)
    set(_cinderblock_file "${CMAKE_${_cinderblock_kind}_LIBRARY_PREFIX}cinderblock${CMAKE_${_cinderblock_kind}_LIBRARY_SUFFIX}")
    find_file(CINDERBLOCK_${_cinderblock_kind}_LIBRARY "${_cinderblock_file}"
        PATHS "${_cinderblock_prefix}" PATH_SUFFIXES ${_cinderblock_folders} NO_DEFAULT_PATH)
    if(_cinderblock_kind STREQUAL "SHARED")
        set(_cinderblock_target cinderblock::cinderblock)
    else()
        set(_cinderblock_target cinderblock::static)
    endif()
    if(CINDERBLOCK_${_cinderblock_kind}_LIBRARY AND NOT TARGET ${_cinderblock_target})
        add_library(${_cinderblock_target} ${_cinderblock_kind} IMPORTED)
        set_target_properties(${_cinderblock_target} PROPERTIES
            IMPORTED_LOCATION "${CINDERBLOCK_${_cinderblock_kind}_LIBRARY}"
            INTERFACE_INCLUDE_DIRECTORIES "${CINDERBLOCK_INCLUDE_DIR}")
    endif()
endforeach()
if(TARGET cinderblock::static AND UNIX)
    find_package(Threads REQUIRED)
    set_target_properties(cinderblock::static PROPERTIES
        INTERFACE_LINK_LIBRARIES "Threads::Threads;m;${CMAKE_DL_LIBS}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(cinderblock REQUIRED_VARS CINDERBLOCK_INCLUDE_DIR)

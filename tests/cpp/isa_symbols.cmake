# Fails if an object file built for one instruction set offers functions that the linker may share with
# others (weak C++ symbols): a processor that lacks the set would then run them.
# Arguments: NM, OBJECTS (list of all objects of the library).
list(FILTER OBJECTS INCLUDE REGEX "kernels_[a-z0-9_]+\\.cc")
if(NOT OBJECTS)
  message(FATAL_ERROR "no kernel objects among those of the library")
endif()
foreach(object ${OBJECTS})
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${NM} ${object}: status ${status}")
  endif()
  string(REGEX MATCHALL "[0-9a-f]+ [Ww] _Z[^\n]*" shared "${symbols}")
  if(shared)
    message(SEND_ERROR "${object} shares: ${shared}")
  endif()
endforeach()

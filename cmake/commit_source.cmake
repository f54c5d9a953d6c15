# Writes OUTPUT with the commit that SOURCE is at, where git can tell, and touches it only when that changed.
execute_process(COMMAND git describe --always --dirty=-modified --abbrev=12 --exclude=*
  WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit "")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
// Written by cmake/commit_source.cmake.
#include "apps/sporkle/version.h"

std::string_view sporkle::app::built_from() { return "@commit@"; }
]] @ONLY)

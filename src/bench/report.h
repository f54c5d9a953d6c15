// `sporkle bench report`: every results file of a folder as one HTML page that needs nothing else: plots, the machines,
// all results and the command that measures each again. Thread-safe.
#pragma once

#include <span>
#include <string>

#include "bench/results_file.h"

namespace sporkle::bench {

// Of each machine, the latest result of a row is what plots and table show; the history shows all of them in order of
// date. The page is XHTML: well-formed, whatever the files' texts hold.
std::string report_page(std::span<const ResultsFile> files);

}  // namespace sporkle::bench

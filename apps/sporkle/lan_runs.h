// The runs of the local network, for `sporkle join --lan`: found, shown, chosen.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/lan_scan.h"
#include "mesh/run_link.h"

namespace sporkle::app {

struct LanRunLine {
  std::string name, short_id, id, link;
  std::string address;    // where the coordinator's key answered, or else where it would be tried first
  bool verified = false;  // the coordinator proved its key over a connection, just now
};

// Whether `text` names this run: its name, its ID, or at least the first four characters of that.
bool is_named(const mesh::RunRecord& record, std::string_view text);

// Connects to each run (to the first 16) for a moment, to see whether the coordinator is there and holds its key.
std::vector<LanRunLine> check_lan_runs(const std::vector<mesh::LanRun>& runs);

// A table for people, with a title.
std::string lan_table(const std::vector<LanRunLine>& lines);
std::string lan_json(const LanRunLine& line);

// The run to join: the one that `wanted` names or, when it is empty, the only one there is. Otherwise an error that
// shows what was found and says what to do: not_found, or invalid_argument when there are several.
Result<mesh::RunLink> choose_lan_run(const mesh::LanScan& scan, const std::string& wanted);

// What a command line says of a run: a link, or with `lan` a name, an ID or nothing, for which the local network is
// searched. `verb`: what is to be done with it, for errors. `found`: set to the record of a run that the network had.
Result<mesh::RunLink> find_run(const std::string& text, bool lan, std::string_view verb,
                               std::optional<mesh::RunRecord>* found = nullptr);

// A search as long as lists take. For a whole ID it ends as soon as that has answered.
Result<mesh::LanScan> scan_for_run(const std::string& text);

}  // namespace sporkle::app

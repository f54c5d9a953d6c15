#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "mesh/identity.h"

namespace sporkle::app {

void register_identity(Cli& cli) {
  auto json = std::make_shared<bool>(false);
  Command command = cli.command("identity", "Show who this machine is in the mesh");
  command.flag("--json", json.get(), "Print one JSON object");
  command.example("identity", "Prints the short ID that others see, the full ID, and where the key lies.");
  command.action([json]() -> Status {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
    const std::string file = (home_directory() / "identity.pem").string();
    if (*json) {
      JsonObject object;
      object.add("short_id", identity.id().short_id()).add("id", identity.id().to_string()).add("key_file", file);
      std::printf("%s\n", object.text().c_str());
    } else {
      std::printf("short ID  %s\nfull ID   %s\nkey file  %s (private: keep it to yourself)\n",
                  identity.id().short_id().c_str(), identity.id().to_string().c_str(), file.c_str());
    }
    return {};
  });
}

}  // namespace sporkle::app

#include "apps/sporkle/listen_address.h"

namespace sporkle::app {

Status parse_listen(const std::string& text, mesh::ServerOptions* server) {
  const size_t colon = text.rfind(':');
  int port = -1;
  if (colon != std::string::npos && colon + 1 < text.size() &&
      text.find_first_not_of("0123456789", colon + 1) == std::string::npos && text.size() - colon <= 6)
    port = std::stoi(text.substr(colon + 1));
  if (port < 0 || port > 65535)
    return invalid_argument("the address to listen on must be HOST:PORT (port 0 takes any free one), not \"" + text +
                            "\"");
  server->port = static_cast<uint16_t>(port);
  server->host = text.substr(0, colon);
  if (server->host.size() >= 2 && server->host.front() == '[' && server->host.back() == ']')
    server->host = server->host.substr(1, server->host.size() - 2);
  if (server->host == "0.0.0.0") server->host.clear();  // every address, IPv6 included
  return {};
}

}  // namespace sporkle::app

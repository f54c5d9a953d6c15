#include "mesh/run_link.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>

#include "mesh/printable.h"

namespace sporkle::mesh {
namespace {

constexpr std::string_view scheme = "sporkle://";
constexpr std::string_view shape = "expected sporkle://<node id>[@host:port[,host:port...]]/[?name=value...]";

Status link_error(const std::string& what) { return invalid_argument("bad run link: " + what); }

bool is_host_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

bool is_literal_v6(const std::string& host) {
  // A zone such as %eth0 follows the address proper.
  const size_t zone = host.find('%');
  in6_addr parsed{};
  return ::inet_pton(AF_INET6, host.substr(0, zone).c_str(), &parsed) == 1 &&
         (zone == std::string::npos ||
          (zone + 1 < host.size() &&
           std::all_of(host.begin() + static_cast<long>(zone) + 1, host.end(), is_host_name_character)));
}

bool is_unreserved(char c) { return is_host_name_character(c) || c == '~'; }

std::string percent_encode(std::string_view text) {
  constexpr char hex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (is_unreserved(c)) {
      out += c;
    } else {
      const auto value = static_cast<unsigned char>(c);
      out += {'%', hex[value >> 4], hex[value & 15]};
    }
  }
  return out;
}

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const char* begin = text.data() + std::min(i + 1, text.size());
    const char* end = text.data() + std::min(i + 3, text.size());
    if (end - begin != 2 || std::from_chars(begin, end, value, 16).ptr != end)
      return link_error("'%' must be followed by two hexadecimal digits in parameter '" + printable(text, 64) + "'");
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  const std::string quoted = "'" + printable(text, 300) + "'";
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || text.ends_with(']'))
    return invalid_argument("address " + quoted + " has no port; expected host:port");
  Address address;
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[')) {
    if (!host.ends_with(']') || !is_literal_v6(std::string(host.substr(1, host.size() - 2))))
      return invalid_argument("address " + quoted + " has no valid IPv6 address between its brackets");
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return invalid_argument("address " + quoted + ": an IPv6 address must stand in brackets, as in [::1]:7000");
  } else if (host.empty() || host.size() > 253 || !std::all_of(host.begin(), host.end(), is_host_name_character)) {
    return invalid_argument("address " + quoted + " has no valid host name");
  }
  address.host = host;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (port.empty() || error != std::errc() || end != port.data() + port.size() || value == 0 || value > 65535)
    return invalid_argument("address " + quoted + " has no valid port; expected a number from 1 to 65535");
  address.port = static_cast<uint16_t>(value);
  return address;
}

std::string Address::to_string() const {
  const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return shown + ":" + std::to_string(port);
}

Result<RunLink> RunLink::parse(std::string_view text) {
  if (text.size() > max_length)
    return link_error("it has " + std::to_string(text.size()) + " characters; at most " + std::to_string(max_length) +
                      " are allowed");
  if (!text.starts_with(scheme)) return link_error("it does not begin with sporkle://; " + std::string(shape));
  text.remove_prefix(scheme.size());
  std::string_view query;
  if (const size_t mark = text.find('?'); mark != std::string_view::npos) {
    query = text.substr(mark + 1);
    text = text.substr(0, mark);
  }
  if (text.ends_with('/')) text.remove_suffix(1);

  RunLink link;
  const size_t at = text.find('@');
  auto id = NodeId::parse(text.substr(0, at));
  if (!id.ok()) return link_error(id.status().message() + "; " + std::string(shape));
  link.coordinator = *id;
  if (at != std::string_view::npos) {
    for (const std::string_view part : split(text.substr(at + 1), ',')) {
      auto address = Address::parse(part);
      if (!address.ok()) return link_error(address.status().message());
      if (link.addresses.size() == max_addresses)
        return link_error("it has more than " + std::to_string(max_addresses) + " addresses");
      link.addresses.push_back(*std::move(address));
    }
  }
  if (query.empty()) return link;
  for (const std::string_view part : split(query, '&')) {
    const size_t equals = part.find('=');
    if (equals == std::string_view::npos || equals == 0)
      return link_error("parameter '" + printable(part, 64) + "' is not name=value");
    SPORKLE_ASSIGN_OR_RETURN(std::string name, percent_decode(part.substr(0, equals)));
    SPORKLE_ASSIGN_OR_RETURN(std::string value, percent_decode(part.substr(equals + 1)));
    if (!link.parameters.emplace(name, std::move(value)).second)
      return link_error("parameter '" + printable(name, 64) + "' is given twice");
  }
  return link;
}

std::string RunLink::to_string() const {
  std::string text = std::string(scheme) + coordinator.to_string();
  for (size_t i = 0; i < addresses.size(); ++i) text += (i ? "," : "@") + addresses[i].to_string();
  text += "/";
  char separator = '?';
  for (const auto& [name, value] : parameters) {
    text += separator + percent_encode(name) + "=" + percent_encode(value);
    separator = '&';
  }
  return text;
}

std::vector<std::string> local_addresses() {
  std::vector<std::string> global, loopback;
  ifaddrs* interfaces = nullptr;
  if (::getifaddrs(&interfaces) == 0) {
    for (const ifaddrs* i = interfaces; i; i = i->ifa_next) {
      if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) continue;
      char text[INET6_ADDRSTRLEN] = {};
      const void* bytes = nullptr;
      const int family = i->ifa_addr->sa_family;
      if (family == AF_INET) {
        bytes = &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr;
      } else if (family == AF_INET6) {
        const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr;
        // A link-local address needs a zone that means nothing to another machine.
        if (!IN6_IS_ADDR_LINKLOCAL(&v6)) bytes = &v6;
      }
      if (!bytes || !::inet_ntop(family, bytes, text, sizeof text)) continue;
      (i->ifa_flags & IFF_LOOPBACK ? loopback : global).emplace_back(text);
    }
    ::freeifaddrs(interfaces);
  }
  // IPv4 first: "::1" exists on machines whose servers listen on IPv4 alone.
  const auto is_v4 = [](const std::string& text) { return text.find(':') == std::string::npos; };
  std::stable_partition(global.begin(), global.end(), is_v4);
  std::stable_partition(loopback.begin(), loopback.end(), is_v4);
  if (loopback.empty()) loopback.push_back("127.0.0.1");
  global.insert(global.end(), loopback.begin(), loopback.end());
  return global;
}

}  // namespace sporkle::mesh

#include "ir/verifier_messages.h"

#include <cassert>

namespace sporkle::ir {

Status broken(Broken what, std::initializer_list<std::string> parts) {
  std::string_view form = kVerifierMessages[static_cast<size_t>(what)];
  std::string message;
  for (const std::string& part : parts) {
    const size_t gap = form.find("{}");
    assert(gap != std::string_view::npos && "a message has more parts than gaps");
    message += std::string(form.substr(0, gap)) + part;
    form.remove_prefix(gap + 2);
  }
  assert(form.find("{}") == std::string_view::npos && "a message has more gaps than parts");
  return invalid_argument(message + std::string(form));
}

}  // namespace sporkle::ir

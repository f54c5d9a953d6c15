#include "base/status.h"

#include <cerrno>
#include <cstring>

namespace sporkle {

std::string_view code_name(Code code) {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::invalid_argument:
      return "invalid_argument";
    case Code::not_found:
      return "not_found";
    case Code::already_exists:
      return "already_exists";
    case Code::permission_denied:
      return "permission_denied";
    case Code::unavailable:
      return "unavailable";
    case Code::device_lost:
      return "device_lost";
    case Code::deadline_exceeded:
      return "deadline_exceeded";
    case Code::out_of_memory:
      return "out_of_memory";
    case Code::no_space:
      return "no_space";
    case Code::corrupt_data:
      return "corrupt_data";
    case Code::unsupported:
      return "unsupported";
    case Code::cancelled:
      return "cancelled";
    case Code::io_error:
      return "io_error";
    case Code::internal:
      return "internal";
  }
  return "unknown";
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  return std::string(code_name(code_)) + ": " + message_;
}

Status Status::with_context(std::string_view context) const {
  if (ok()) return *this;
  return {code_, std::string(context) + ": " + message_};
}

Status errno_status(int error, std::string what) {
  Code code = Code::io_error;
  switch (error) {
    case ENOENT:
      code = Code::not_found;
      break;
    case EEXIST:
    case EADDRINUSE:
      code = Code::already_exists;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::permission_denied;
      break;
    case ENOSPC:
    case EDQUOT:
      code = Code::no_space;
      break;
    case ENOMEM:
      code = Code::out_of_memory;
      break;
    case ETIMEDOUT:
      code = Code::deadline_exceeded;
      break;
    default:
      break;
  }
  return {code, std::move(what) + ": " + std::strerror(error)};
}

}  // namespace sporkle

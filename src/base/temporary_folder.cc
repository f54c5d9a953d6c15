#include "base/temporary_folder.h"

#include <stdlib.h>

#include <cerrno>
#include <string>

namespace sporkle {

Result<TemporaryFolder> TemporaryFolder::create(std::string_view name) {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  if (error) return errno_status(error.value(), "there is no folder for temporary files; set TMPDIR");
  std::string pattern = (parent / (std::string(name) + "-XXXXXX")).string();
  if (::mkdtemp(pattern.data()) == nullptr)
    return errno_status(errno, "cannot make a temporary folder in " + parent.string());
  return TemporaryFolder(pattern);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

}  // namespace sporkle

#include "train/checkpoint_folder.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/file_writer.h"
#include "base/log.h"
#include "train/checkpoint.h"

namespace sporkle::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kTemporaryMark = ".tmp.";

// ".checkpoint-00000500.tmp.<pid>.<counter>", beside `path`.
fs::path temporary_beside(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  return path.parent_path() / ("." + path.filename().string() + std::string(kTemporaryMark) +
                               std::to_string(::getpid()) + "." + std::to_string(counter++));
}

std::optional<int64_t> number_in(std::string_view text) {
  int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  return number_in(std::string_view(name).substr(kPrefix.size()));
}

bool has_model(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kModelFile, error);
}

// Steps and paths of DIRECTORY/checkpoint-*, oldest first.
std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& directory) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (const auto step = step_of(entry->path())) found.emplace_back(*step, entry->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

Status check_replaceable(const fs::path& folder) {
  constexpr std::array kOurs = {kModelFile, kConfigFile, kTokenizerFile, kInfoFile, kStateTensorsFile, kStateFile};
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (std::find(kOurs.begin(), kOurs.end(), name) == kOurs.end())
      return {Code::already_exists, "cannot write a checkpoint to " + folder.string() + ": it holds " + name +
                                        ", which is no part of a checkpoint; choose a new folder"};
  }
  if (error) return errno_status(error.value(), "cannot look into " + folder.string());
  return {};
}

Status rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return {};
  return errno_status(errno, "cannot rename " + from.string() + " to " + to.string());
}

// Puts `temporary` in the place of `folder`; what was there is then at `temporary`, or gone.
Status swap_in(const fs::path& temporary, const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return rename_path(temporary, folder);
  SPORKLE_RETURN_IF_ERROR(check_replaceable(folder));
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) return {};
  // A file system that cannot exchange two names: for a moment between two renames there is no `folder`, and
  // find_checkpoint takes the newest other one.
  const fs::path old = temporary_beside(folder);
  SPORKLE_RETURN_IF_ERROR(rename_path(folder, old));
  if (Status status = rename_path(temporary, folder); !status.ok()) {
    ::rename(old.c_str(), folder.c_str());
    return status;
  }
  fs::remove_all(old, error);
  return {};
}

}  // namespace

fs::path checkpoint_path(const fs::path& directory, int64_t step) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%08lld", static_cast<long long>(step));
  return directory / (std::string(kPrefix) + digits);
}

Status replace_folder(const fs::path& wanted, const std::function<Status(const fs::path&)>& fill) {
  std::error_code error;
  fs::path folder = fs::absolute(wanted, error).lexically_normal();
  if (error) return errno_status(error.value(), "cannot resolve " + wanted.string());
  if (!folder.has_filename()) folder = folder.parent_path();
  const fs::path parent = folder.parent_path();
  fs::create_directories(parent, error);
  if (error) return errno_status(error.value(), "cannot create " + parent.string());
  if (fs::exists(folder, error)) SPORKLE_RETURN_IF_ERROR(check_replaceable(folder));
  const fs::path temporary = temporary_beside(folder);
  if (!fs::create_directory(temporary, error) && error)
    return errno_status(error.value(), "cannot create " + temporary.string());
  Status status = fill(temporary);
  if (status.ok()) status = sync_folder(temporary);
  if (status.ok()) status = swap_in(temporary, folder);
  if (status.ok()) status = sync_folder(parent);
  fs::remove_all(temporary, error);
  return status;
}

Status set_latest(const fs::path& directory, int64_t step) {
  const fs::path latest = directory / "latest";
  const fs::path temporary = temporary_beside(latest);
  const fs::path target = checkpoint_path(directory, step).filename();
  if (::symlink(target.c_str(), temporary.c_str()) != 0) return errno_status(errno, "cannot create " + latest.string());
  if (::rename(temporary.c_str(), latest.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    return errno_status(reason, "cannot replace " + latest.string());
  }
  return sync_folder(directory);
}

void remove_old_checkpoints(const fs::path& directory, int64_t step, int64_t keep) {
  auto checkpoints = list_checkpoints(directory);
  std::erase_if(checkpoints, [&](const auto& checkpoint) { return checkpoint.first > step; });
  for (size_t i = 0; i + static_cast<size_t>(keep) < checkpoints.size(); ++i) {
    const fs::path& path = checkpoints[i].second;
    // Renamed first: half a checkpoint is never to be seen under its name.
    const fs::path doomed = temporary_beside(path);
    std::error_code error;
    if (rename_path(path, doomed).ok()) fs::remove_all(doomed, error);
    if (error) log(LogLevel::warning, "checkpoint", "cannot remove " + doomed.string() + ": " + error.message());
  }
}

void remove_leftovers(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator entry(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const size_t mark = name.find(kTemporaryMark);
    if (!(name.starts_with(".checkpoint-") || name.starts_with(".latest")) || mark == std::string::npos) continue;
    const size_t pid_at = mark + kTemporaryMark.size();
    const auto pid = number_in(std::string_view(name).substr(pid_at, name.find('.', pid_at) - pid_at));
    if (pid && *pid > 0 && ::kill(static_cast<pid_t>(*pid), 0) != 0 && errno == ESRCH)
      leftovers.push_back(entry->path());
  }
  for (const fs::path& leftover : leftovers) fs::remove_all(leftover, error);
}

Result<fs::path> find_checkpoint(const fs::path& path) {
  std::error_code error;
  if (has_model(path) || fs::exists(path / kConfigFile, error)) return path;
  const fs::path target = fs::read_symlink(path / "latest", error);
  if (!error && has_model(path / target)) return path / target;
  const auto checkpoints = list_checkpoints(path);
  for (auto checkpoint = checkpoints.rbegin(); checkpoint != checkpoints.rend(); ++checkpoint)
    if (has_model(checkpoint->second)) return checkpoint->second;
  if (!fs::exists(path, error)) return not_found("there is no checkpoint " + path.string() + ": no such folder");
  return not_found("there is no checkpoint in " + path.string() + ": it has neither " + kModelFile +
                   " nor a folder checkpoint-*");
}

}  // namespace sporkle::train

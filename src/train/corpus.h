// Where training text comes from: a file, a folder, or a named corpus out of a Debian package. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "train/config.h"

namespace sporkle::train {

// A corpus that can be asked for by name. The list in corpus.cc is the only one.
struct NamedCorpus {
  std::string name;
  std::string package;  // the Debian package that carries it
  std::string title;
  std::string license;
};
const std::vector<NamedCorpus>& named_corpora();

// The file with the plain text of a named corpus, made in cache_directory()/corpora at first use. invalid_argument for
// an unknown name, not_found naming the package to install where it is missing.
Result<std::filesystem::path> corpus_file(std::string_view name);

// How far preparing data has come: what is being done ("reading", "tokenizing", "learning a tokenizer") and how much of
// how much. Called often, on the calling thread.
using PrepareProgress = std::function<void(std::string_view what, uint64_t done, uint64_t total)>;

// The documents of a run: their paths, sorted, and what all of them together are.
struct Corpus {
  std::string name;  // as the user wrote it
  std::vector<std::filesystem::path> files;
  uint64_t size_bytes = 0;
  Digest sha256{};  // over every file's size and content, in order
};

// Reads everything once and checks that it is UTF-8. A folder is walked recursively; hidden files and folders in it are
// left out. invalid_argument names the file and the byte offset that is not UTF-8, or the empty file or folder.
Result<Corpus> open_corpus(const DataConfig& config, const PrepareProgress& progress = {});
Result<Corpus> open_corpus(const std::filesystem::path& file_or_folder, const PrepareProgress& progress = {});

// Calls `document` with the text of each file in order, one in memory at a time.
Status for_each_document(const Corpus& corpus, const std::function<Status(std::string_view text)>& document);

// The text of Debian's bible.data (bible-kjv-text): chapters with their heading, one verse on a line, without
// references.
Result<std::string> decode_bible_data(std::span<const std::byte> data);

}  // namespace sporkle::train

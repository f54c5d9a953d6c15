#include "train/corpus.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <system_error>

#include "base/file.h"
#include "train/unicode.h"

namespace sporkle::train {
namespace {

namespace fs = std::filesystem;

struct CorpusRow {
  NamedCorpus corpus;
  fs::path source;        // what the package installs
  std::string_view file;  // in the cache; the number goes up when `decode` gives other text
  Result<std::string> (*decode)(std::span<const std::byte>);
};

const std::vector<CorpusRow>& corpus_rows() {
  static const std::vector<CorpusRow> rows = {
      {{"kjv", "bible-kjv-text", "The King James Bible (1611), 4.2 MB of English", "public domain"},
       "/usr/lib/bible.data",
       "kjv-1.txt",
       decode_bible_data},
  };
  return rows;
}

// The books in the order and with the short names of bible.data.
struct Book {
  std::string_view short_name;
  std::string_view name;
};
constexpr std::array kBooks = {
    Book{"Ge", "Genesis"},          Book{"Exo", "Exodus"},
    Book{"Lev", "Leviticus"},       Book{"Num", "Numbers"},
    Book{"Deu", "Deuteronomy"},     Book{"Josh", "Joshua"},
    Book{"Jdgs", "Judges"},         Book{"Ruth", "Ruth"},
    Book{"1Sm", "1 Samuel"},        Book{"2Sm", "2 Samuel"},
    Book{"1Ki", "1 Kings"},         Book{"2Ki", "2 Kings"},
    Book{"1Chr", "1 Chronicles"},   Book{"2Chr", "2 Chronicles"},
    Book{"Ezra", "Ezra"},           Book{"Neh", "Nehemiah"},
    Book{"Est", "Esther"},          Book{"Job", "Job"},
    Book{"Psa", "Psalm"},           Book{"Prv", "Proverbs"},
    Book{"Eccl", "Ecclesiastes"},   Book{"SSol", "Song of Solomon"},
    Book{"Isa", "Isaiah"},          Book{"Jer", "Jeremiah"},
    Book{"Lam", "Lamentations"},    Book{"Eze", "Ezekiel"},
    Book{"Dan", "Daniel"},          Book{"Hos", "Hosea"},
    Book{"Joel", "Joel"},           Book{"Amos", "Amos"},
    Book{"Obad", "Obadiah"},        Book{"Jonah", "Jonah"},
    Book{"Mic", "Micah"},           Book{"Nahum", "Nahum"},
    Book{"Hab", "Habakkuk"},        Book{"Zep", "Zephaniah"},
    Book{"Hag", "Haggai"},          Book{"Zec", "Zechariah"},
    Book{"Mal", "Malachi"},         Book{"Mat", "Matthew"},
    Book{"Mark", "Mark"},           Book{"Luke", "Luke"},
    Book{"John", "John"},           Book{"Acts", "Acts"},
    Book{"Rom", "Romans"},          Book{"1Cor", "1 Corinthians"},
    Book{"2Cor", "2 Corinthians"},  Book{"Gal", "Galatians"},
    Book{"Eph", "Ephesians"},       Book{"Phi", "Philippians"},
    Book{"Col", "Colossians"},      Book{"1Th", "1 Thessalonians"},
    Book{"2Th", "2 Thessalonians"}, Book{"1Tim", "1 Timothy"},
    Book{"2Tim", "2 Timothy"},      Book{"Titus", "Titus"},
    Book{"Phmn", "Philemon"},       Book{"Heb", "Hebrews"},
    Book{"Jas", "James"},           Book{"1Pet", "1 Peter"},
    Book{"2Pet", "2 Peter"},        Book{"1Jn", "1 John"},
    Book{"2Jn", "2 John"},          Book{"3Jn", "3 John"},
    Book{"Jude", "Jude"},           Book{"Rev", "Revelation"},
};

std::optional<std::string_view> book_name(std::string_view short_name) {
  for (const Book& book : kBooks)
    if (book.short_name == short_name) return book.name;
  return std::nullopt;
}

// One stream of compress(1) in block mode with codes of up to 16 bits, without its three bytes of magic. Nothing when
// it is malformed or holds more than `max_size` bytes.
std::optional<std::string> decode_lzw(std::span<const std::byte> data, size_t max_size) {
  constexpr uint32_t kClear = 256;
  constexpr uint32_t kFirstFree = 257;
  constexpr uint32_t kFirstWidth = 9;
  constexpr uint32_t kLastWidth = 16;
  constexpr uint32_t kNone = ~0u;
  std::vector<uint32_t> prefix(1u << kLastWidth, kNone);
  std::vector<char> last(1u << kLastWidth);
  for (uint32_t i = 0; i < 256; ++i) last[i] = static_cast<char>(i);

  std::string out;
  std::string reversed;
  uint32_t width = kFirstWidth;
  uint32_t next_free = kFirstFree;
  uint32_t previous = kNone;
  uint64_t position = 0;     // in bits
  uint64_t group_start = 0;  // codes come in groups of eight; a change of width leaves the rest of a group unused
  const uint64_t bits = static_cast<uint64_t>(data.size()) * 8;
  const auto end_group = [&] {
    const uint64_t group = uint64_t{width} * 8;
    position = group_start + (position - group_start + group - 1) / group * group;
    group_start = position;
  };
  for (;;) {
    if (width < kLastWidth && next_free > (1u << width) - 1) {
      end_group();
      ++width;
    }
    if (position + width > bits) return out;
    uint32_t code = 0;
    for (uint64_t byte = 0; byte < 3 && position / 8 + byte < data.size(); ++byte)
      code |= std::to_integer<uint32_t>(data[position / 8 + byte]) << (8 * byte);
    code = code >> (position % 8) & ((1u << width) - 1);
    position += width;
    if (code == kClear) {
      end_group();
      width = kFirstWidth;
      next_free = kFirstFree;
      previous = kNone;
      continue;
    }
    if (code > next_free || (code == next_free && previous == kNone)) return std::nullopt;
    // The code being defined right now: the previous text and its own first byte once more.
    const bool is_new = code == next_free && code > 255;
    reversed.clear();
    for (uint32_t at = is_new ? previous : code; at != kNone; at = prefix[at]) reversed.push_back(last[at]);
    const char first = reversed.back();
    out.append(reversed.rbegin(), reversed.rend());
    if (is_new) out.push_back(first);
    if (out.size() > max_size) return std::nullopt;
    if (previous != kNone && next_free < 1u << kLastWidth) {
      prefix[next_free] = previous;
      last[next_free] = first;
      ++next_free;
    }
    previous = code;
  }
}

uint32_t big_endian_u32(std::span<const std::byte> data, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | std::to_integer<uint32_t>(data[offset + i]);
  return value;
}

// The list of files under a folder, sorted, without hidden ones.
Result<std::vector<fs::path>> walk(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  const auto failed = [&] { return errno_status(error.value(), "cannot read folder " + folder.string()); };
  if (error) return failed();
  while (entry != fs::recursive_directory_iterator()) {
    if (entry->path().filename().string().starts_with('.')) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(error)) {
      files.push_back(entry->path());
    }
    entry.increment(error);
    if (error) return failed();
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

const std::vector<NamedCorpus>& named_corpora() {
  static const std::vector<NamedCorpus> corpora = [] {
    std::vector<NamedCorpus> list;
    for (const CorpusRow& row : corpus_rows()) list.push_back(row.corpus);
    return list;
  }();
  return corpora;
}

// bible.data: "EC02", a label, then from byte 84 on big-endian u32: the size of a window of text, the number of
// windows, and where each window's LZW stream begins, one more for the end. The text has a title line, then lines such
// as "Ge1:1 In the beginning God created the heaven and the earth."
Result<std::string> decode_bible_data(std::span<const std::byte> data) {
  constexpr size_t kTable = 84;
  const auto corrupt = [](const std::string& what) { return corrupt_data("bible.data is damaged: " + what); };
  if (data.size() < kTable + 8 || std::memcmp(data.data(), "EC02", 4) != 0)
    return corrupt("it does not begin with EC02");
  const uint64_t window_size = big_endian_u32(data, kTable);
  const uint64_t windows = big_endian_u32(data, kTable + 4);
  if (window_size > 1 << 20 || windows > 1 << 16 || kTable + 8 + (windows + 1) * 4 > data.size())
    return corrupt("its table does not fit");
  std::string raw;
  for (uint64_t i = 0; i < windows; ++i) {
    const uint64_t begin = big_endian_u32(data, kTable + 8 + i * 4);
    const uint64_t end = big_endian_u32(data, kTable + 12 + i * 4);
    if (begin > end || end > data.size()) return corrupt("window " + std::to_string(i) + " lies outside the file");
    const auto text = decode_lzw(data.subspan(begin, end - begin), window_size);
    if (!text || (i + 1 < windows && text->size() != window_size))
      return corrupt("window " + std::to_string(i) + " does not decompress");
    raw += *text;
  }

  std::string result;
  std::string_view rest = raw;
  std::string_view chapter;
  rest.remove_prefix(std::min(rest.find('\n'), rest.size() - 1) + 1);
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const size_t colon = line.find(':');
    const size_t space = line.find(' ');
    // "1Chr12:3": the chapter's number is the digits before the colon.
    const size_t number = colon == std::string_view::npos ? 0 : line.find_last_not_of("0123456789", colon - 1) + 1;
    const auto book = book_name(line.substr(0, number));
    if (!book || number == colon || space == std::string_view::npos || space < colon)
      return corrupt("unexpected line \"" + std::string(line.substr(0, 40)) + "\"");
    if (line.substr(0, colon) != chapter) {
      chapter = line.substr(0, colon);
      if (!result.empty()) result += '\n';
      result.append(*book).append(" ").append(line.substr(number, colon - number)).append("\n");
    }
    for (size_t i = space + 1; i < line.size(); ++i)
      if (line[i] != ' ' || line[i - 1] != ' ') result += line[i];
    result += '\n';
  }
  return result;
}

Result<fs::path> corpus_file(std::string_view name) {
  for (const CorpusRow& row : corpus_rows()) {
    if (row.corpus.name != name) continue;
    const fs::path folder = cache_directory() / "corpora";
    fs::path file = folder / row.file;
    std::error_code error;
    if (fs::exists(file, error)) return file;
    auto source = MappedFile::open(row.source);
    if (!source.ok()) {
      if (source.status().code() != Code::not_found) return source.status();
      return not_found("corpus \"" + std::string(name) + "\" needs " + row.source.string() + " of the Debian package " +
                       row.corpus.package + ", which is not installed: apt-get install " + row.corpus.package);
    }
    SPORKLE_ASSIGN_OR_RETURN(const std::string text, row.decode(source->bytes()));
    fs::create_directories(folder, error);
    if (error) return errno_status(error.value(), "cannot create " + folder.string());
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(file, text));
    return file;
  }
  std::string known;
  for (const CorpusRow& row : corpus_rows()) known += (known.empty() ? "" : ", ") + row.corpus.name;
  return invalid_argument("unknown corpus \"" + std::string(name) + "\"; there are: " + known);
}

Result<Corpus> open_corpus(const fs::path& path, const PrepareProgress& progress) {
  Corpus corpus;
  corpus.name = path.string();
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return errno_status(ENOENT, "cannot open training text " + path.string());
  if (fs::is_directory(status)) {
    SPORKLE_ASSIGN_OR_RETURN(corpus.files, walk(path));
    if (corpus.files.empty()) return invalid_argument("the folder " + path.string() + " has no files in it");
  } else {
    corpus.files = {path};
  }
  uint64_t expected_bytes = 0;
  for (const fs::path& file : corpus.files) {
    const uint64_t size = fs::file_size(file, error);
    if (!error) expected_bytes += size;
  }
  Sha256 hash;
  for (const fs::path& file : corpus.files) {
    SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
    if (const auto offset = find_invalid_utf8(text))
      return invalid_argument(file.string() + " is not UTF-8 text: bad byte at offset " + std::to_string(*offset) +
                              "; convert it, or leave it out of the training data");
    const uint64_t size = text.size();
    hash.update(std::as_bytes(std::span(&size, 1)));
    hash.update(text);
    corpus.size_bytes += size;
    if (progress) progress("reading", corpus.size_bytes, expected_bytes);
  }
  if (corpus.size_bytes == 0) return invalid_argument("there is no text in " + path.string() + ": it is empty");
  corpus.sha256 = hash.finish();
  return corpus;
}

Result<Corpus> open_corpus(const DataConfig& config, const PrepareProgress& progress) {
  if (config.corpus.empty()) return open_corpus(fs::path(config.path), progress);
  SPORKLE_ASSIGN_OR_RETURN(const fs::path file, corpus_file(config.corpus));
  SPORKLE_ASSIGN_OR_RETURN(Corpus corpus, open_corpus(file, progress));
  corpus.name = config.corpus;
  return corpus;
}

Status for_each_document(const Corpus& corpus, const std::function<Status(std::string_view text)>& document) {
  for (const fs::path& file : corpus.files) {
    SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
    if (!text.empty()) SPORKLE_RETURN_IF_ERROR(document(text));
  }
  return {};
}

}  // namespace sporkle::train

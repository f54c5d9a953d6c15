// Any text is a list of records or an error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mesh/seed_list.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sporkle::mesh;
  const auto list = SeedList::parse({reinterpret_cast<const char*>(data), size}, "input");
  if (!list.ok()) return 0;
  if (list->size() == 0 || list->warnings().size() > 6) std::abort();
  // The coordinator of the corpus's record.
  const auto id = NodeId::parse("eh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q");
  const auto record = list->find({*id, {}, {}}, 0);
  if (record.ok() && record->coordinator() != *id) std::abort();
  return 0;
}

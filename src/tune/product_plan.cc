#include "tune/product_plan.h"

#include <algorithm>
#include <charconv>

namespace sporkle::tune {
namespace {

// One row for each kind of processor and vector width: how many rows of C a register tile has when it is so many
// vectors wide, and how few rows of C leave B not worth copying. Tiles are sized so that the accumulators, one row of B
// and a broadcast element of A fit the vector registers, and the addresses of the rows the general ones. On Zen 4 a
// broadcast from memory takes two turns of the loads: tiles as wide as high are the fastest. A single row of C is all
// memory: Zen 4 foresees what a load wants by the steps of that one instruction, so the fewer the better, where Zen 3
// is twice as fast when whole pages' lines follow each other.
struct Preset {
  Microarchitecture microarchitecture;
  int vector_bytes;
  int widest;   // vectors of a tile, when there are columns enough
  int most;     // vectors of a tile that takes in all columns
  int rows[7];  // by vectors
  int64_t slab_rows;
  int64_t pass_bytes;  // of one column of a panel: a longer k is split evenly into passes
  int row_vectors;     // of a slab's piece for a single row of C, where B comes from memory
  int row_unroll;      // of the same
};
constexpr Preset kPresets[] = {
    {Microarchitecture::zen4, 64, 4, 6, {0, 8, 8, 8, 6, 4, 4}, 16, 4096, 1, 16},
    {Microarchitecture::zen3, 32, 3, 4, {0, 6, 6, 4, 3, 0, 0}, 16, 8192, 8, 2},
    {Microarchitecture::generic, 64, 4, 6, {0, 10, 10, 8, 5, 4, 4}, 16, 8192, 4, 16},
    {Microarchitecture::generic, 32, 4, 4, {0, 6, 6, 4, 3, 0, 0}, 16, 8192, 8, 2},
    {Microarchitecture::generic, 16, 4, 4, {0, 6, 4, 2, 2, 0, 0}, 16, 8192, 4, 16},
};

constexpr int64_t kMinRows = 48;               // of a block of C, before more are made for the sake of more threads
constexpr int64_t kThinDepth = 8;              // so short a k leaves C to decide the time
constexpr int64_t kSlabBytes = 32 << 10;       // of C that slabs are added to
constexpr int64_t kLeastSlabBytes = 64 << 10;  // of B, before its way through the cache matters
constexpr int64_t kStreamBytes = 512 << 10;    // of B, from which on it comes from memory rather than the caches
constexpr int64_t kMostRowsAcross = 4;         // of C, up to which B's columns are not worth copying
constexpr int64_t kMostBlock = int64_t{1} << 40;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

const Preset& preset_of(const Processor& processor) {
  const Preset* found = nullptr;
  for (const Preset& preset : kPresets) {
    if (preset.vector_bytes > processor.vector_bytes) continue;
    if (preset.microarchitecture != processor.microarchitecture &&
        preset.microarchitecture != Microarchitecture::generic)
      continue;
    if (!found || preset.vector_bytes > found->vector_bytes) found = &preset;
  }
  return found ? *found : kPresets[std::size(kPresets) - 1];
}

int lanes_of(const ProductShape& shape, const Processor& processor) {
  return std::max(processor.vector_bytes / shape.element_bytes, 1);
}

// Rows of C for one turn: all, or fewer so that every thread has something to do.
int64_t share_rows(const ProductShape& shape, const Processor& processor, int64_t panels, int tile_rows) {
  const int64_t wanted = 4 * int64_t{processor.threads};
  if (processor.threads == 1 || panels >= wanted || panels == 0) return 0;
  const int64_t each = round_up(divide_up(shape.rows, divide_up(wanted, panels)), tile_rows);
  return std::min(shape.rows, std::max(kMinRows, each));
}

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

bool take(std::string_view& text, int64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

constexpr std::string_view kKindNames[] = {"packed", "in_place", "slabs"};

}  // namespace

std::string ProductPlan::text() const {
  return std::string(kKindNames[static_cast<size_t>(kind)]) + " " + std::to_string(rows) + "x" +
         std::to_string(vectors) + " unroll" + std::to_string(unroll) + " depth" + std::to_string(depth) + " block" +
         std::to_string(block_rows) + "x" + std::to_string(block_columns);
}

Result<ProductPlan> ProductPlan::parse(std::string_view text) {
  const auto fail = [&](const std::string& why) {
    return invalid_argument("plan of a product \"" + std::string(text) + "\": " + why +
                            "; it reads like \"packed 5x4 unroll4 depth2048 block0x0\"");
  };
  ProductPlan plan;
  std::string_view rest = text;
  bool known = false;
  for (size_t i = 0; i < std::size(kKindNames) && !known; ++i)
    if ((known = take(rest, kKindNames[i]))) plan.kind = static_cast<Kind>(i);
  if (!known) return fail("it starts with none of packed, in_place and slabs");
  int64_t rows = 0, vectors = 0, unroll = 0;
  const bool whole = take(rest, " ") && take(rest, &rows) && take(rest, "x") && take(rest, &vectors) &&
                     take(rest, " unroll") && take(rest, &unroll) && take(rest, " depth") && take(rest, &plan.depth) &&
                     take(rest, " block") && take(rest, &plan.block_rows) && take(rest, "x") &&
                     take(rest, &plan.block_columns) && rest.empty();
  if (!whole) return fail("\"" + std::string(rest) + "\" is not what follows");
  if (rows < 1 || rows > 32 || vectors < 1 || vectors > 16 || unroll < 1 || unroll > 16)
    return fail("a tile has 1 to 32 rows and 1 to 16 vectors, and the loop is unrolled 1 to 16 times");
  if (plan.depth < 1 || plan.depth > kMostBlock || plan.block_rows < 0 || plan.block_rows > kMostBlock ||
      plan.block_columns < 0 || plan.block_columns > kMostBlock)
    return fail("the depth or a block is out of range");
  plan.rows = static_cast<int>(rows);
  plan.vectors = static_cast<int>(vectors);
  plan.unroll = static_cast<int>(unroll);
  return plan;
}

std::string ProductShape::key() const {
  return std::string(element_bytes == 8 ? "f64 " : "f32 ") + (a_in_rows ? "n" : "t") + (b_in_rows ? "n " : "t ") +
         std::to_string(batches) + "x" + std::to_string(rows) + "x" + std::to_string(columns) + "x" +
         std::to_string(depth);
}

std::string Processor::key() const {
  return std::string(microarchitecture_name(microarchitecture)) + " vector" + std::to_string(vector_bytes) +
         " threads" + std::to_string(threads);
}

Processor Processor::host(int vector_bytes, int threads) { return {host_microarchitecture(), vector_bytes, threads}; }

bool plan_applies(const ProductPlan& plan, const ProductShape& shape, const Processor& processor) {
  const int registers = processor.vector_bytes >= 64 ? 32 : 16;
  if (shape.one_column()) return plan.kind == ProductPlan::Kind::in_place;  // chains of scalars
  if (plan.rows * plan.vectors + plan.vectors > registers) return false;
  return plan.kind != ProductPlan::Kind::slabs || shape.b_in_rows;
}

ProductPlan preset_plan(const ProductShape& shape, const Processor& processor) {
  const Preset& preset = preset_of(processor);
  const int lanes = lanes_of(shape, processor);
  const int64_t vectors = std::max<int64_t>(divide_up(shape.columns, lanes), 1);
  ProductPlan plan;
  if (shape.one_column()) {
    plan.kind = ProductPlan::Kind::in_place;
    plan.rows = 8;
    plan.depth = std::max<int64_t>(shape.depth, 1);
    plan.block_rows = share_rows(shape, processor, shape.batches, plan.rows);
    return plan;
  }
  plan.vectors = static_cast<int>(vectors <= preset.most ? vectors : preset.widest);
  plan.rows = preset.rows[plan.vectors];
  const int64_t b_bytes = shape.depth * shape.columns * shape.element_bytes;

  const bool thin = shape.depth <= kThinDepth && shape.columns * shape.element_bytes >= 1024;
  const bool few = shape.rows == 1 || (shape.rows <= preset.slab_rows && b_bytes >= kLeastSlabBytes);
  if (shape.b_in_rows && (thin || few)) {
    plan.kind = ProductPlan::Kind::slabs;
    // Memory likes to be read in few streams, each row of B one; with hardly any arithmetic the code of a whole slab is
    // unrolled, and short pieces of its rows follow each other quickly.
    const bool hardly_any = !thin && shape.rows <= 4;
    plan.depth = thin ? kThinDepth : 16;
    plan.unroll = hardly_any ? 16 : 8;
    plan.vectors = std::min(plan.vectors, hardly_any && shape.rows > 1 ? 2 : preset.widest);
    if (shape.rows == 1 && !thin && b_bytes >= kStreamBytes) {
      plan.vectors = static_cast<int>(std::min<int64_t>(vectors, preset.row_vectors));
      plan.unroll = preset.row_unroll;
    }
    plan.rows = shape.rows <= 1 ? 1 : static_cast<int>(std::min<int64_t>(preset.rows[plan.vectors], shape.rows));
    if (thin) {
      const int64_t fitting = kSlabBytes / (shape.columns * shape.element_bytes);
      plan.block_rows = std::clamp<int64_t>(fitting, plan.rows, std::max<int64_t>(shape.rows, plan.rows));
      return plan;
    }
    // A single row is all memory: its streams should be as long as they can.
    const int64_t each = shape.rows == 1 ? 1 : 2, turns = processor.threads == 1 ? 1 : each * processor.threads;
    const int64_t fair = divide_up(shape.columns, divide_up(turns, std::max<int64_t>(shape.batches, 1)));
    if (turns > 1) plan.block_columns = round_up(fair, int64_t{lanes} * plan.vectors);
    return plan;
  }
  if (!shape.b_in_rows && shape.rows <= kMostRowsAcross && lanes > 1) {
    // Tiles of B, as high as wide, are transposed in registers: copying them takes as long.
    plan.kind = ProductPlan::Kind::in_place;
    plan.vectors = 1;
    plan.rows = static_cast<int>(std::max<int64_t>(shape.rows, 1));
    plan.unroll = lanes;
    plan.depth = std::max<int64_t>(shape.depth, 1);
    return plan;
  }
  const int64_t panels = shape.batches * divide_up(shape.columns, int64_t{lanes} * plan.vectors);
  plan.block_rows = share_rows(shape, processor, panels, plan.rows);
  plan.depth = preset.pass_bytes / shape.element_bytes;
  return plan;
}

}  // namespace sporkle::tune

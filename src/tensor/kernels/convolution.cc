// Convolutions as matrix products whose right operand is packed from the images, panel by panel: no matrix of patches
// ever lies in memory. See kernels/matmul.cc for the tiles and kernels/convolution.h for the images. Where the result's
// lines fill vectors nothing is packed: convolution_direct.cc.
#include "tensor/kernels/convolution.h"

#include <span>

#include "tensor/context.h"
#include "tensor/kernels/convolution_geometry.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

constexpr int64_t kPassBytes = 8192;  // of one column of a panel: a longer chain goes in several passes
constexpr int64_t kMinRows = 48;      // of a tile, before more tiles are made for the sake of more threads

// A register tile: rows of the left operand times vectors of a panel.
struct Tile {
  int rows, vectors;
};

// The tile that wastes the least of a product of these rows and columns, the first among equals. The accumulators, one
// row of a panel and a broadcast element fit the vector registers (32 with AVX-512, else 16). What is left of the rows
// goes in smaller tiles, which load as much for less arithmetic.
Tile choose_tile(int vector_width, int lanes, int64_t rows, int64_t columns) {
  constexpr Tile kLarge[] = {{8, 3}, {6, 4}, {4, 6}, {8, 2}, {8, 1}}, kSmall[] = {{4, 3}, {3, 4}, {6, 2}, {6, 1}};
  constexpr double kRemainder = 0.3;
  Tile best{};
  double best_cost = 0;
  for (const Tile& tile : vector_width >= 16 ? std::span<const Tile>(kLarge) : std::span<const Tile>(kSmall)) {
    const double padded = static_cast<double>(divide_up(columns, int64_t{lanes} * tile.vectors) * tile.vectors);
    const double cost = padded * (static_cast<double>(rows) + (rows % tile.rows != 0 ? kRemainder * tile.rows : 0));
    if (best.rows != 0 && cost >= best_cost * 0.99) continue;
    best = tile;
    best_cost = cost;
  }
  return best;
}

// How a product of `rows` x `columns`, `batches` times, is cut into tiles on a device.
struct Tiling {
  int lanes;  // of a vector
  int width;  // of a panel, in elements
  int64_t block_rows;
  std::string schedule;
};

Tiling make_tiling(Context& context, DType dtype, int64_t batches, int64_t rows, int64_t columns) {
  const int lanes = std::max(context.vector_width() * 4 / ir::dtype_size(dtype), 1);
  const Tile tile = choose_tile(context.vector_width(), lanes, rows, columns);
  const std::string vector = "vec" + std::to_string(lanes);
  Tiling tiling{lanes, lanes * tile.vectors, rows, ""};
  tiling.schedule = "tile:thread m:tile" + std::to_string(tile.rows) + " n:" + vector +
                    (tile.vectors > 1 ? "x" + std::to_string(tile.vectors) : "") + " k:unroll4";
  const int64_t panels = std::max<int64_t>(batches * divide_up(columns, tiling.width), 1);
  const int64_t tiles = 4 * int64_t{context.device().info().threads};
  if (panels < tiles)
    tiling.block_rows =
        std::min(rows, std::max(kMinRows, divide_up(divide_up(rows, divide_up(tiles, panels)), tile.rows) * tile.rows));
  return tiling;
}

std::string key_of(const char* name, const ConvolutionShape& s, const Tiling& tiling, bool continues) {
  std::string key = std::string(name) + "." + std::string(ir::dtype_name(s.dtype)) + " width" +
                    std::to_string(tiling.width) + " stride" + std::to_string(s.stride_height) + "x" +
                    std::to_string(s.stride_width) + " dilation" + std::to_string(s.dilation_height) + "x" +
                    std::to_string(s.dilation_width);
  return continues ? key + " continued" : key;
}

// The width of lines that are copied as one vector each: lines of the result so short that many fill a panel, whole. 0:
// they are not of that kind.
int short_line(const ConvolutionShape& shape, const Tiling& tiling) {
  const int64_t width = shape.output_width;
  const bool fits = tiling.lanes > 1 && (width == 4 || width == 8) && width <= tiling.lanes;
  return fits && tiling.width % width == 0 && tiling.width / width <= 64 ? static_cast<int>(width) : 0;
}

// The tile of a product: its group, and its blocks of rows and of columns.
struct TileIndex {
  Expr group, first_row, row_count, first_column, last_column;
};

TileIndex take_apart(Expr tile, Expr rows, Expr block_rows, Expr columns, int width) {
  const Expr row_blocks = (rows + block_rows - 1) / block_rows, column_blocks = (columns + width - 1) / width;
  TileIndex index;
  index.first_row = tile % row_blocks * block_rows;
  index.row_count = dsl::min(block_rows, rows - index.first_row);
  const Expr rest = tile / row_blocks;
  index.first_column = rest % column_blocks * width;
  index.last_column = dsl::min(index.first_column + width, columns);
  index.group = rest / column_blocks;
  return index;
}

Expr tile_count(Expr groups, Expr rows, Expr block_rows, Expr columns, int width) {
  return groups * ((rows + block_rows - 1) / block_rows) * ((columns + width - 1) / width);
}

// The rows of a tile times a panel, which begins at `panel_start`. `start`, if there, is what the chains continue.
void multiply(KernelBuilder& k, DType type, const TileIndex& tile, Expr depth, const Buffer& panel, Expr panel_start,
              int width, const Buffer* start, const Buffer& result, const std::function<Expr(Expr, Expr)>& result_index,
              const std::function<std::function<Expr(Expr)>(Expr)>& left) {
  k.range("m", tile.row_count, [&](Expr m) {
    const Expr row = tile.first_row + m;
    const std::function<Expr(Expr)> factor = left(row);
    k.range("n", Expr(width), [&](Expr n) {
      const Expr column = tile.first_column + n, mask = column < tile.last_column, zero = dsl::constant(type, 0);
      const Expr index = result_index(row, column);
      const Expr first = start ? start->load(index, mask, zero) : zero;
      result.store(index,
                   k.fma_chain("k", depth, first,
                               [&](Expr i) { return std::pair(factor(i), panel[panel_start + i * width + n]); }),
                   mask);
    });
  });
}

// ---------------------------------------------------------------------------------------------- forward

// One pass over channels [first_channel, first_channel + pass_channels) of each group.
KernelCall convolve_pass(const ConvolutionShape& shape, const Tiling& tiling, int64_t first_channel,
                         int64_t pass_channels) {
  const bool continues = first_channel > 0;
  const int line_width = short_line(shape, tiling);
  KernelCall call;
  call.key = key_of("conv2d", shape, tiling, continues);
  if (line_width > 0) call.key += " lines" + std::to_string(line_width);
  call.schedule = tiling.schedule;
  if (line_width > 0)
    call.schedule +=
        " short:tile" + std::to_string(tiling.width / line_width) + " copy:vec" + std::to_string(line_width);
  call.schedule += " pack:vec" + std::to_string(tiling.lanes);
  if (const int vectors = tiling.width / tiling.lanes; vectors > 1) call.schedule += "x" + std::to_string(vectors);
  call.define = [shape, continues, line_width, panel_width = tiling.width](KernelBuilder& k) {
    const DType type = shape.dtype;
    std::optional<Buffer> start;
    if (continues) start = k.input(type, "start");
    const Buffer x = k.input(type, "images"), w = k.input(type, "weight"), y = k.output(type, "result");
    const Geometry g(k, shape);
    const Expr first = k.size("first_channel"), count = k.size("pass_channels"), block_rows = k.size("block_rows");
    const Expr taps = g.kernel_height * g.kernel_width, depth = count * taps;
    k.range("tile", tile_count(g.groups, g.filters, block_rows, g.pixels, panel_width), [&](Expr number) {
      const TileIndex tile = take_apart(number, g.filters, block_rows, g.pixels, panel_width);
      const Buffer panel = k.scratch(type, "panel", depth * panel_width);
      // body(where the images have a tap of a channel, where the panel has it)
      const auto each_tap = [&](const std::function<void(Expr, Expr)>& body) {
        k.range("c", count, [&](Expr c) {
          const Expr plane = g.channel_offset(tile.group * g.channels + first + c);
          k.range("u", g.kernel_height, [&](Expr u) {
            k.range("v", g.kernel_width, [&](Expr v) {
              body(plane + g.tap_offset(u, v), ((c * g.kernel_height + u) * g.kernel_width + v) * panel_width);
            });
          });
        });
      };
      const auto pack_runs = [&] {
        g.each_run(k, tile.first_column, tile.last_column, [&](Expr line, Expr column, Expr place, Expr length) {
          const Expr origin = g.line_offset(line) + column;
          each_tap([&](Expr from, Expr to) {
            k.range("pack", length, [&](Expr i) { panel.store(to + place + i, x[origin + from + i]); });
          });
        });
      };
      const Expr filled = tile.last_column - tile.first_column, missing = Expr(panel_width) - filled;
      if (line_width > 0) {
        const Expr whole = filled / panel_width, first_line = tile.first_column / line_width;
        k.range("whole", whole, [&](Expr) {
          each_tap([&](Expr from, Expr to) {
            k.range("short", Expr(panel_width / line_width), [&](Expr line) {
              const Expr origin = g.line_offset(first_line + line) + from, place = to + line * line_width;
              k.range("copy", Expr(line_width), [&](Expr i) { panel.store(place + i, x[origin + i]); });
            });
          });
        });
        k.range("partial", Expr(1) - whole, [&](Expr) { pack_runs(); });
      } else {
        pack_runs();
      }
      // Columns past the last pixel are multiplied as well, and not stored.
      k.range("clear", dsl::min(missing, 1) * depth, [&](Expr i) {
        k.range("pack", missing, [&](Expr n) { panel.store(i * panel_width + filled + n, dsl::constant(type, 0)); });
      });
      multiply(
          k, type, tile, depth, panel, Expr(0), panel_width, start ? &*start : nullptr, y,
          [&](Expr row, Expr column) { return (tile.group * g.filters + row) * g.pixels + column; },
          [&](Expr row) -> std::function<Expr(Expr)> {
            const Expr from = ((tile.group * g.filters + row) * g.channels + first) * taps;
            return [&w, from](Expr i) { return w[from + i]; };
          });
    });
  };
  call.results = {{shape.dtype, {shape.groups * shape.filters, shape.images, shape.output_height, shape.output_width}}};
  Geometry::append(shape, &call.scalars);
  for (const int64_t value : {first_channel, pass_channels, tiling.block_rows})
    call.scalars.push_back(scalar_bits(value));
  return call;
}

// ---------------------------------------------------------------------------------------------- weight gradient

// gradient [groups * filters, pixels] -> its panels of filters, [groups, blocks, pixels, width], zeros behind the last
// filter. Every row of taps reads them, so they are turned once, and not by each tile.
Tensor gradient_panels(const ConvolutionShape& shape, const Tiling& tiling, const Tensor& gradient) {
  constexpr int kRun = 16;  // pixels turned at a time: their panel rows stay in the first cache
  KernelCall call;
  call.key = "conv2d_panels." + std::string(ir::dtype_name(shape.dtype)) + " width" + std::to_string(tiling.width);
  call.define = [type = shape.dtype, panel_width = tiling.width](KernelBuilder& k) {
    const Buffer dy = k.input(type, "gradient"), panels = k.output(type, "panels");
    const Expr groups = k.size("groups"), filters = k.size("filters"), pixels = k.size("pixels");
    const Expr blocks = (filters + panel_width - 1) / panel_width, runs = (pixels + kRun - 1) / kRun;
    k.range("t", groups * blocks * runs, [&](Expr t) {
      const Expr first = t % runs * kRun, block = t / runs % blocks, group = t / runs / blocks;
      // Squares of pixels and filters are transposed in registers.
      k.range("pixel", dsl::min(Expr(kRun), pixels - first), [&](Expr i) {
        k.range("n", Expr(panel_width), [&](Expr n) {
          const Expr filter = block * panel_width + n, from = (group * filters + filter) * pixels + first;
          const Expr to = (t / runs * pixels + first) * panel_width + n;
          panels.store(to + i * panel_width, dy.load(from + i, filter < filters, dsl::constant(type, 0)));
        });
      });
    });
  };
  const std::string lanes = std::to_string(tiling.lanes);
  call.schedule = tiling.lanes > 1 ? "t:thread pixel:tile" + lanes + " n:vec" + lanes : "t:thread";
  const int64_t blocks = divide_up(shape.filters, tiling.width);
  call.results = {{shape.dtype, {shape.groups, blocks, shape.pixels(), tiling.width}}};
  call.scalars = {scalar_bits(shape.groups), scalar_bits(shape.filters), scalar_bits(shape.pixels())};
  const Tensor inputs[] = {gradient};
  return call_kernel(std::move(call), inputs)[0];
}

// One pass over pixels [first_pixel, first_pixel + pass_pixels): rows are the taps of all channels, columns the
// filters.
KernelCall weight_gradient_pass(const ConvolutionShape& shape, const Tiling& tiling, int64_t first_pixel,
                                int64_t pass_pixels) {
  const bool continues = first_pixel > 0;
  KernelCall call;
  call.key = key_of("conv2d_dw", shape, tiling, continues);
  call.schedule = tiling.schedule;
  call.define = [shape, continues, panel_width = tiling.width](KernelBuilder& k) {
    const DType type = shape.dtype;
    std::optional<Buffer> start;
    if (continues) start = k.input(type, "start");
    const Buffer x = k.input(type, "images"), panels = k.input(type, "panels"), dw = k.output(type, "result");
    const Geometry g(k, shape);
    const Expr first = k.size("first_pixel"), depth = k.size("pass_pixels"), block_rows = k.size("block_rows");
    const Expr taps = g.kernel_height * g.kernel_width, rows = g.channels * taps;
    k.range("tile", tile_count(g.groups, rows, block_rows, g.filters, panel_width), [&](Expr number) {
      const TileIndex tile = take_apart(number, rows, block_rows, g.filters, panel_width);
      // Where the first tap finds each pixel, so that no division is left in the chain.
      const Buffer places = k.scratch(DType::i64, "places", depth);
      g.each_run(k, first, first + depth, [&](Expr line, Expr column, Expr place, Expr length) {
        const Expr origin = g.line_offset(line) + column;
        k.range("run", length, [&](Expr i) { places.store(place + i, origin + i); });
      });
      const Expr column_blocks = (g.filters + panel_width - 1) / panel_width;
      const Expr panel = (tile.group * column_blocks + tile.first_column / panel_width) * g.pixels + first;
      multiply(
          k, type, tile, depth, panels, panel * panel_width, panel_width, start ? &*start : nullptr, dw,
          [&](Expr row, Expr column) { return (tile.group * rows + row) * g.filters + column; },
          [&](Expr row) -> std::function<Expr(Expr)> {
            const Expr channel = tile.group * g.channels + row / taps, tap = row % taps;
            const Expr from = g.channel_offset(channel) + g.tap_offset(tap / g.kernel_width, tap % g.kernel_width);
            return [&x, &places, from](Expr i) { return x[from + places[i]]; };
          });
    });
  };
  call.results = {
      {shape.dtype, {shape.groups, shape.channels * shape.kernel_height * shape.kernel_width, shape.filters}}};
  Geometry::append(shape, &call.scalars);
  for (const int64_t value : {first_pixel, pass_pixels, tiling.block_rows}) call.scalars.push_back(scalar_bits(value));
  return call;
}

}  // namespace

Tensor convolve(const ConvolutionShape& shape, const Tensor& images, const Tensor& weight, KernelGradient gradient) {
  const Tiling tiling = make_tiling(images.context(), shape.dtype, shape.groups, shape.filters, shape.pixels());
  const int64_t longest = kPassBytes / ir::dtype_size(shape.dtype);
  const int64_t most = std::max<int64_t>(longest / (shape.kernel_height * shape.kernel_width), 1);
  const int64_t each = divide_up(shape.channels, divide_up(shape.channels, most));
  const bool direct = runs_directly(images.context(), shape);
  Tensor result;
  for (int64_t first = 0; first < shape.channels; first += each) {
    const int64_t count = std::min(each, shape.channels - first);
    KernelCall call =
        direct ? direct_convolution(images.context(), shape, first, count) : convolve_pass(shape, tiling, first, count);
    std::vector<Tensor> inputs;
    if (first > 0) inputs.push_back(result);
    inputs.push_back(images);
    inputs.push_back(weight);
    // The last pass stands for all of them: nothing flows back into the earlier ones.
    if (first + count == shape.channels && gradient)
      call.gradient = [gradient, first](std::span<const Tensor> in, std::span<const Tensor> out,
                                        std::span<const Tensor> d) {
        const size_t skipped = first > 0 ? 1 : 0;
        std::vector<Tensor> dx = gradient(in.subspan(skipped), out, d);
        dx.insert(dx.begin(), skipped, Tensor());
        return dx;
      };
    result = call_kernel(std::move(call), inputs)[0];
  }
  return result;
}

Tensor convolution_weight_gradient(const ConvolutionShape& shape, const Tensor& images, const Tensor& gradient) {
  const int64_t rows = shape.channels * shape.kernel_height * shape.kernel_width;
  const Tiling tiling = make_tiling(images.context(), shape.dtype, shape.groups, rows, shape.filters);
  const int64_t pixels = shape.pixels(), longest = kPassBytes / ir::dtype_size(shape.dtype);
  const int64_t each = divide_up(pixels, std::max<int64_t>(divide_up(pixels, longest), 1));
  const Tensor panels = gradient_panels(shape, tiling, gradient);
  Tensor result;
  for (int64_t first = 0; first == 0 || first < pixels; first += each) {
    std::vector<Tensor> inputs;
    if (first > 0) inputs.push_back(result);
    inputs.push_back(images);
    inputs.push_back(panels);
    result = call_kernel(weight_gradient_pass(shape, tiling, first, std::min(each, pixels - first)), inputs)[0];
    if (each == 0) break;
  }
  const Shape taps{shape.groups, shape.channels, shape.kernel_height, shape.kernel_width, shape.filters};
  return result.reshape(taps)
      .permute({0, 4, 1, 2, 3})
      .reshape({shape.groups * shape.filters, shape.channels, shape.kernel_height, shape.kernel_width});
}

Tensor turned_weight(const ConvolutionShape& shape, const Tensor& weight, const Taps& rows, const Taps& columns) {
  KernelCall call;
  call.key = "conv2d_turn." + std::string(ir::dtype_name(shape.dtype));
  call.define = [type = shape.dtype](KernelBuilder& k) {
    const Buffer w = k.input(type, "weight"), turned = k.output(type, "turned");
    const Expr groups = k.size("groups"), channels = k.size("channels"), filters = k.size("filters");
    const Expr height = k.size("kernel_height"), width = k.size("kernel_width");
    const Expr first_row = k.size("first_row"), row_step = k.size("row_step"), row_count = k.size("row_count");
    const Expr first_column = k.size("first_column"), column_step = k.size("column_step");
    const Expr column_count = k.size("column_count");
    k.range("r", groups * channels, [&](Expr r) {
      const Expr group = r / channels, channel = r % channels;
      k.range("o", filters, [&](Expr filter) {
        const Expr from = ((group * filters + filter) * channels + channel) * height;
        k.range("u", row_count, [&](Expr u) {
          const Expr row = first_row + (row_count - 1 - u) * row_step;
          k.range("v", column_count, [&](Expr v) {
            const Expr column = first_column + (column_count - 1 - v) * column_step;
            turned.store(((r * filters + filter) * row_count + u) * column_count + v, w[(from + row) * width + column]);
          });
        });
      });
    });
  };
  call.schedule = "r:thread";
  call.results = {{shape.dtype, {shape.groups * shape.channels, shape.filters, rows.count, columns.count}}};
  for (const int64_t value : {shape.groups, shape.channels, shape.filters, shape.kernel_height, shape.kernel_width,
                              rows.first, rows.step, rows.count, columns.first, columns.step, columns.count})
    call.scalars.push_back(scalar_bits(value));
  const Tensor inputs[] = {weight};
  return call_kernel(std::move(call), inputs)[0];
}

Tensor join_phases(const ConvolutionShape& shape, Context& context, std::span<const Phase> phases) {
  const int64_t line_count = shape.groups * shape.channels * shape.images;
  const Shape joined{shape.groups * shape.channels, shape.images, shape.phase_rows(),
                     shape.phase_columns(),         shape.rows(), shape.columns()};
  std::vector<Tensor> parts;
  std::vector<bool> there;
  KernelCall call;
  call.key = "conv2d_phases." + std::string(ir::dtype_name(shape.dtype)) + " ";
  for (const int64_t value : {line_count, shape.rows(), shape.columns()}) call.scalars.push_back(scalar_bits(value));
  for (const Phase& phase : phases) {
    there.push_back(phase.part.defined());
    call.key += there.back() ? "x" : "0";
    if (!there.back()) continue;
    parts.push_back(phase.part);
    for (const int64_t value : {phase.first_row, phase.row_count, phase.first_column, phase.column_count})
      call.scalars.push_back(scalar_bits(value));
  }
  if (parts.empty()) return zeros(context, joined, shape.dtype);
  call.define = [type = shape.dtype, there](KernelBuilder& k) {
    std::vector<Buffer> inputs;
    for (size_t p = 0; p < there.size(); ++p)
      if (there[p]) inputs.push_back(k.input(type, "part" + std::to_string(p)));
    const Buffer all = k.output(type, "images");
    const Expr lines = k.size("lines"), rows = k.size("rows"), columns = k.size("columns");
    std::vector<Expr> windows;
    for (size_t i = 0; i < 4 * inputs.size(); ++i) windows.push_back(k.size("window" + std::to_string(i)));
    k.range("line", lines, [&](Expr line) {
      size_t input = 0;
      for (size_t p = 0; p < there.size(); ++p) {
        const size_t at = there[p] ? input++ : 0;
        const auto to = [&](Expr row) {
          return ((line * static_cast<int64_t>(there.size()) + static_cast<int64_t>(p)) * rows + row) * columns;
        };
        k.range("row", rows, [&](Expr row) {
          const Expr y = row - windows[4 * at], height = windows[4 * at + 1], width = windows[4 * at + 3];
          const Expr inside = (Expr(0) <= y) & (y < height), from = (line * height + y) * width;
          k.range("column", columns, [&](Expr column) {
            const Expr zero = dsl::constant(type, 0), x = column - windows[4 * at + 2];
            all.store(to(row) + column,
                      there[p] ? inputs[at].load(from + x, inside & (Expr(0) <= x) & (x < width), zero) : zero);
          });
        });
      }
    });
  };
  call.schedule = "line:thread column:vec";
  call.results = {{shape.dtype, joined}};
  return call_kernel(std::move(call), parts)[0];
}

}  // namespace sporkle::tensor

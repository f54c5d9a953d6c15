// Convolutions that read the images where they lie. A register tile is some filters times a vector of each of some
// lines of the result: what a tap needs for a vector is a run of neighbours in prepared images, so nothing is packed,
// and the lines that neighbouring taps share are in the first cache.
#include "tensor/context.h"
#include "tensor/kernels/convolution_geometry.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::KernelBuilder;

constexpr double kMostWaste = 1.1;          // elements computed for each that is wanted
constexpr int64_t kBlockBytes = 256 << 10;  // of images that a turn of a thread reads again and again
constexpr int64_t kLeastFilters = 24;       // of a turn, before more turns are made for the sake of more threads
constexpr int64_t kTurnsPerThread = 4;

// From this size on a result passes the caches. A tile stores to lines of several filters, which are far apart, often
// by a multiple of a page, and evict each other before they are whole.
constexpr int64_t kLeastStreamed = int64_t{12} << 20;

int lanes_of(const Context& context, DType type) { return context.vector_width() * 4 / ir::dtype_size(type); }

}  // namespace

bool runs_directly(const Context& context, const ConvolutionShape& shape) {
  const int64_t lanes = lanes_of(context, shape.dtype);
  if (context.is_gpu() || lanes < 2 || shape.output_width < lanes) return false;
  const double computed = static_cast<double>(divide_up(shape.output_width, lanes) * lanes);
  return computed <= kMostWaste * static_cast<double>(shape.output_width);
}

KernelCall direct_convolution(Context& context, const ConvolutionShape& shape, int64_t first_channel,
                              int64_t pass_channels) {
  const bool continues = first_channel > 0;
  const int lanes = lanes_of(context, shape.dtype);
  // The accumulators, a vector of each line and a broadcast weight fit the registers: 32 of 64 bytes, else 16.
  const int tile_filters = 6, tile_lines = context.vector_width() >= 16 ? 4 : 2;
  KernelCall call;
  call.key = "conv2d_direct." + std::string(ir::dtype_name(shape.dtype)) + " stride" +
             std::to_string(shape.stride_height) + "x" + std::to_string(shape.stride_width) + " dilation" +
             std::to_string(shape.dilation_height) + "x" + std::to_string(shape.dilation_width) +
             (continues ? " continued" : "");
  call.schedule = "tile:thread m:tile" + std::to_string(tile_filters) + " line:tile" + std::to_string(tile_lines) +
                  " n:vec" + std::to_string(lanes);
  const int64_t element = ir::dtype_size(shape.dtype);
  const int64_t result_bytes = shape.groups * shape.filters * shape.pixels() * element;
  const bool is_last = first_channel + pass_channels == shape.channels;
  if (is_last && result_bytes >= kLeastStreamed && shape.output_width * element % 64 == 0) {
    call.schedule += " n:stream";
    call.key += " streamed";
  }
  call.define = [shape, continues](KernelBuilder& k) {
    const DType type = shape.dtype;
    std::optional<Buffer> start;
    if (continues) start = k.input(type, "start");
    const Buffer x = k.input(type, "images"), w = k.input(type, "weight"), y = k.output(type, "result");
    const Geometry g(k, shape);
    const Expr first = k.size("first_channel"), count = k.size("pass_channels");
    const Expr block_filters = k.size("block_filters"), block_lines = k.size("block_lines");
    const Expr taps = g.kernel_height * g.kernel_width, depth = count * taps, lines = g.images * g.height;
    const Expr filter_blocks = (g.filters + block_filters - 1) / block_filters;
    const Expr line_blocks = (lines + block_lines - 1) / block_lines;
    k.range("tile", g.groups * line_blocks * filter_blocks, [&](Expr tile) {
      const Expr first_filter = tile % filter_blocks * block_filters, rest = tile / filter_blocks;
      const Expr first_line = rest % line_blocks * block_lines, group = rest / line_blocks;
      // Where each step of a chain finds its element, from where the first tap of the first channel does.
      const Buffer places = k.scratch(DType::i64, "places", depth);
      k.range("c", count, [&](Expr c) {
        k.range("u", g.kernel_height, [&](Expr u) {
          k.range("v", g.kernel_width, [&](Expr v) {
            places.store((c * g.kernel_height + u) * g.kernel_width + v,
                         g.channel_offset(group * g.channels + first + c) + g.tap_offset(u, v));
          });
        });
      });
      k.range("m", dsl::min(block_filters, g.filters - first_filter), [&](Expr m) {
        const Expr filter = group * g.filters + first_filter + m, weights = (filter * g.channels + first) * taps;
        k.range("line", dsl::min(block_lines, lines - first_line), [&](Expr l) {
          const Expr line = first_line + l, from = g.line_offset(line), to = filter * g.pixels + line * g.width;
          k.range("n", g.width, [&](Expr n) {
            const Expr begin = start ? (*start)[to + n] : dsl::constant(type, 0);
            y.store(to + n, k.fma_chain("k", depth, begin,
                                        [&](Expr i) { return std::pair(w[weights + i], x[from + n + places[i]]); }));
          });
        });
      });
    });
  };
  call.results = {{shape.dtype, {shape.groups * shape.filters, shape.images, shape.output_height, shape.output_width}}};

  const int64_t lines = shape.images * shape.output_height;
  const int64_t line_bytes = pass_channels * shape.columns() * shape.phase_rows() * shape.phase_columns() *
                             static_cast<int64_t>(ir::dtype_size(shape.dtype));
  int64_t block_lines = std::max<int64_t>(kBlockBytes / std::max<int64_t>(line_bytes, 1) / tile_lines, 1) * tile_lines;
  block_lines = std::min(block_lines, std::max<int64_t>(lines, 1));
  int64_t block_filters = std::max<int64_t>(shape.filters, 1);
  const int64_t turns = kTurnsPerThread * context.device().info().threads;
  const int64_t blocks = std::max<int64_t>(shape.groups * divide_up(lines, block_lines), 1);
  if (blocks < turns) {
    const int64_t each = divide_up(divide_up(shape.filters, divide_up(turns, blocks)), tile_filters) * tile_filters;
    block_filters = std::min(block_filters, std::max(kLeastFilters, each));
  }
  Geometry::append(shape, &call.scalars);
  for (const int64_t value : {first_channel, pass_channels, block_filters, block_lines})
    call.scalars.push_back(scalar_bits(value));
  return call;
}

}  // namespace sporkle::tensor

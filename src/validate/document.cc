#include "validate/document.h"

#include <cmath>
#include <cstdio>

namespace sporkle::validate {

std::string ulp_text(double ulp) {
  if (std::isinf(ulp)) return "inf";
  char text[32];
  std::snprintf(text, sizeof text, ulp < 10 ? "%.2f" : "%.0f", ulp);
  return ulp == 0 ? "0" : text;
}

std::string operations_page(std::span<const Report> reports) {
  std::string page =
      "# Operations\n\n"
      "Written by `sporkle validate --device cpu --markdown > docs/operations.md`; a test checks that it is "
      "current.\n\n"
      "Every operation is `strict` (see [numerics.md](numerics.md)): the same bits on every device. It means what the\n"
      "interpreter computes in f64; an f32 result is at most the limit away, in units in the last place (ULP) of the\n"
      "exact result, or of the quantity named. 0: correctly rounded. `depth(n)` is the longest chain of additions in a "
      "sum\n"
      "over n elements: n up to 256, about n / 128 + 128 beyond. *Measured* is the largest error among the calls that "
      "the\n"
      "command draws, and *of the limit* the largest share of a call's limit.\n";
  std::string group;
  for (const Report& report : reports) {
    if (report.group != group) {
      group = report.group;
      std::string title = group;
      title[0] = static_cast<char>(title[0] - 'a' + 'A');
      page += "\n## " + title +
              "\n\n| operation | types | limit, ULP of f32 | measured | of the limit | gradient "
              "|\n|---|---|---|---|---|---|\n";
    }
    char share[16];
    std::snprintf(share, sizeof share, "%.0f%%", 100 * report.worst_share);
    page += "| `" + report.operation + "` | " + report.types + " | " + report.limit + " | " +
            ulp_text(report.worst_ulp) + " | " + share + " | " + (report.has_gradient ? "yes" : "none") + " |\n";
  }
  return page;
}

}  // namespace sporkle::validate

// The style sheet and the script of a report's page.
#pragma once

#include <string_view>

namespace sporkle::bench {

// Follows the reader's choice of a light or dark page. Ahead and behind differ in shape of text and in hues that people
// with any usual colour vision tell apart.
inline constexpr std::string_view kReportStyle = R"(
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2129; --soft: #5b6472; --rule: #dfe3e8;
  --ahead: #1666c0; --behind: #c2560c; --ceiling: #6b7280; --on-dot: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --card: #1c2027; --ink: #e8eaee; --soft: #a3acba; --rule: #343b46;
    --ahead: #6cb0ff; --behind: #ff9d57; --ceiling: #98a2b3; --on-dot: #10141a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
figure p { margin: .4rem 0 0; font-size: .85rem; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } p { max-width: 46rem; margin: .3rem 0 .9rem; }
.soft { color: var(--soft); } nav a { margin-right: 1rem; } a { color: var(--ahead); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .8rem .9rem; margin: 0;
  min-width: 0; }
.plot { display: block; width: 100%; max-width: 40rem; height: auto; font: 12px system-ui, "DejaVu Sans", sans-serif; }
.plot text { fill: var(--ink); stroke: var(--card); stroke-width: 4px; paint-order: stroke; }
.plot .number { stroke: none; } .plot .tick, .plot .label { fill: var(--soft); font-size: 11px; }
.plot .strong { font-weight: 600; } .plot .grid { stroke: var(--rule); display: inline; } .plot .axis { stroke: var(--soft); }
.plot .ceiling { fill: none; stroke: var(--ceiling); stroke-width: 2; } .plot .ceiling-label { fill: var(--ceiling); }
.plot .even { stroke: var(--soft); stroke-dasharray: 4 3; } .plot .dot { fill: var(--ahead); }
.plot .behind .dot { fill: var(--behind); } .plot .whisker { stroke: var(--ahead); stroke-width: 2; }
.plot .behind .whisker { stroke: var(--behind); } .plot .trend { fill: none; stroke: var(--ahead); stroke-width: 1.5; }
.plot .point .dot { stroke: var(--card); } .plot .point .number { fill: var(--on-dot); font-size: 10px; font-weight: 600; }
ol.key { columns: 15rem; padding-left: 1.8rem; margin: .4rem 0 0; font-size: .85rem; } ol.key li { break-inside: avoid; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:last-child td, tr:last-child th { border-bottom: 0; } table.machine th { white-space: nowrap; width: 9rem; }
code { font: .8rem ui-monospace, "DejaVu Sans Mono", monospace; } td code { white-space: nowrap; user-select: all; }
input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .35rem .6rem; width: min(100%, 24rem); margin-bottom: .7rem; }
)";

// Hides the table's rows that lack what is typed. Without a script the table is whole.
inline constexpr std::string_view kReportScript = R"(
document.getElementById('filter').addEventListener('input', function (event) {
  const words = event.target.value.toLowerCase().split(' ');
  document.querySelectorAll('#rows tr').forEach(function (row) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(function (word) { return text.includes(word); });
  });
});
)";

}  // namespace sporkle::bench

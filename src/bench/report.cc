#include "bench/report.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/format_units.h"
#include "bench/report_plots.h"
#include "bench/report_style.h"
#include "bench/svg.h"

namespace sporkle::bench {
namespace {

// One machine's results: each row's latest, and all of them in order of time.
struct MachineResults {
  std::string name;
  std::optional<Machine> machine;  // as the latest session describes it
  std::vector<Record> latest;      // in the order of each row's first result
  std::vector<std::string> row_files;
  std::vector<std::pair<std::string, std::vector<HistoryPoint>>> history;
};

std::string when_text(const std::optional<Machine>& machine, const std::string& file) {
  if (!machine) return file;
  return machine->date + (machine->commit.empty() ? "" : " " + machine->commit);
}

std::vector<MachineResults> by_machine(std::span<const ResultsFile> files) {
  struct Entry {
    const Session* session;
    const ResultsFile* file;
  };
  std::vector<Entry> entries;
  for (const ResultsFile& file : files)
    for (const Session& session : file.sessions) entries.push_back({&session, &file});
  std::ranges::stable_sort(entries, {},
                           [](const Entry& e) { return e.session->machine ? e.session->machine->date : ""; });

  std::vector<MachineResults> machines;
  std::map<std::string, size_t> machine_index;
  std::map<std::pair<size_t, std::string>, size_t> row_index;
  for (const Entry& entry : entries) {
    const auto& machine = entry.session->machine;
    const std::string name = machine ? machine->machine : "unknown machine";
    const auto [place, is_new] = machine_index.try_emplace(name, machines.size());
    if (is_new) machines.push_back({name, {}, {}, {}, {}});
    MachineResults& results = machines[place->second];
    results.machine = machine;
    for (const Record& record : entry.session->records) {
      const auto [row, new_row] = row_index.try_emplace({place->second, row_name(record)}, results.latest.size());
      if (new_row) {
        results.latest.emplace_back();
        results.row_files.emplace_back();
        results.history.emplace_back(row_name(record), std::vector<HistoryPoint>{});
      }
      results.latest[row->second] = record;
      results.row_files[row->second] = when_text(machine, entry.file->name);
      results.history[row->second].second.push_back({when_text(machine, entry.file->name), record});
    }
  }
  return machines;
}

std::string threads_text(int64_t threads) { return std::to_string(threads) + (threads == 1 ? " thread" : " threads"); }

std::string card(const std::string& title, const std::string& content) {
  return "<figure class=\"card\"><h3>" + markup(title) + "</h3>\n" + content + "</figure>\n";
}

std::string rooflines(const MachineResults& machine) {
  struct Group {
    std::vector<Record> points, others;
  };
  std::map<std::tuple<std::string, int64_t, std::string>, Group> groups;
  for (const Record& r : machine.latest) {
    Group& group = groups[{r.device, r.threads, r.dtype}];
    // Against two rivals a case is measured once and stands in two rows.
    const bool repeated = std::ranges::any_of(group.points, [&](const Record& other) {
      return other.name == r.name && other.shape == r.shape && other.numerics == r.numerics;
    });
    if (has_intensity(r) && !repeated)
      group.points.push_back(r);
    else
      group.others.push_back(r);
  }
  std::string html;
  for (const auto& [key, group] : groups) {
    if (group.points.empty()) continue;
    const auto& [device, threads, dtype] = key;
    const std::string title = machine.name + ": " + device + ", " + threads_text(threads) + ", " + dtype;
    std::string content = roofline_plot(title, group.points, group.others) + "<ol class=\"key\">\n";
    for (const Record& r : group.points) {
      content += "<li>" + markup(r.name + " " + r.shape);
      if (r.percent_of_peak) content += " <span class=\"soft\">" + format_fixed(*r.percent_of_peak, 0) + " %</span>";
      content += "</li>\n";
    }
    html += card(title, content + "</ol>\n");
  }
  return html;
}

std::string ratios(const MachineResults& machine) {
  std::map<std::string, std::vector<Record>> groups;
  for (const Record& r : machine.latest)
    if (r.ratio && *r.ratio > 0) groups[r.rival].push_back(r);
  std::string html;
  for (const auto& [rival, records] : groups) {
    const std::string title = machine.name + ": against " + rival;
    std::string versions;
    for (const Record& r : records)
      if (!r.rival_version.empty() && versions.find(r.rival_version) == std::string::npos)
        versions += (versions.empty() ? "" : "; ") + r.rival_version;
    html += card(title, ratio_plot(title, records) + "<p class=\"soft\">" + markup(versions) + "</p>\n");
  }
  return html;
}

std::string histories(const MachineResults& machine) {
  std::string html;
  for (const auto& [name, points] : machine.history) {
    // One whose unit changed along the way has no one axis: what came before the change is another quantity.
    std::vector<HistoryPoint> same_unit;
    for (const HistoryPoint& point : points)
      if (point.record.unit == points.back().record.unit) same_unit.push_back(point);
    html += card(name, history_plot(machine.name + ": " + name, same_unit));
  }
  return html;
}

std::string cell(const std::string& text, bool number = false) {
  return std::string(number ? "<td class=\"number\">" : "<td>") + markup(text) + "</td>";
}

std::string percent_cell(const std::optional<double>& value, double factor, int decimals) {
  return cell(value ? format_fixed(*value * factor, decimals) + " %" : "", true);
}

std::string number_cell(const std::optional<double>& value) { return cell(value ? short_number(*value) : "", true); }

std::string result_table(const std::vector<MachineResults>& machines) {
  std::string html =
      "<label for=\"filter\">Show rows with</label> <input id=\"filter\" type=\"search\" placeholder=\"gemm f32\"/>\n"
      "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"All results\"><table><thead><tr>"
      "<th>machine</th><th>case</th><th>shape</th><th>dtype</th><th>numerics</th><th>device</th>"
      "<th class=\"number\">threads</th><th class=\"number\">value</th><th class=\"number\">noise</th>"
      "<th class=\"number\">of peak</th><th>rival</th><th class=\"number\">ratio</th><th class=\"number\">error</th>"
      "<th>measured</th><th>command</th></tr></thead>\n<tbody id=\"rows\">\n";
  for (const MachineResults& machine : machines) {
    for (size_t i = 0; i < machine.latest.size(); ++i) {
      const Record& r = machine.latest[i];
      std::string ratio = r.ratio ? short_number(*r.ratio) : "";
      if (r.ratio_min && r.ratio_max)
        ratio += " (" + short_number(*r.ratio_min) + " to " + short_number(*r.ratio_max) + ")";
      html += "<tr class=\"row\">" + cell(machine.name) + cell(r.name) + cell(r.shape) + cell(r.dtype) +
              cell(r.numerics) + cell(r.device) + cell(std::to_string(r.threads), true) +
              cell(short_number(r.value) + " " + r.unit, true) + percent_cell(r.noise, 100, 1) +
              percent_cell(r.percent_of_peak, 1, 0) + cell(r.rival.empty() || r.ratio ? r.rival : r.rival_version) +
              cell(ratio, true) + number_cell(r.max_rel_error) + cell(machine.row_files[i]) + "<td><code>" +
              markup(command_of(r)) + "</code></td></tr>\n";
    }
  }
  return html + "</tbody></table></div>\n";
}

std::string machine_table(const MachineResults& results) {
  if (!results.machine)
    return card(results.name,
                "<p>These results were kept without a machine's line; <code>sporkle bench --save</code> "
                "writes one.</p>\n");
  const Machine& m = *results.machine;
  std::string html = "<table class=\"machine\"><tbody>\n";
  const auto row = [&](const std::string& name, const std::string& value) {
    html += "<tr><th scope=\"row\">" + markup(name) + "</th><td>" + markup(value.empty() ? "not known" : value) +
            "</td></tr>\n";
  };
  row("processor", m.cpu + ", " + std::to_string(m.cores) + (m.cores == 1 ? " core" : " cores"));
  row("features", m.cpu_features);
  std::string caches;
  for (const Cache& cache : m.caches)
    caches += (caches.empty() ? "" : "; ") + std::string("L") + std::to_string(cache.level) + " " + cache.type + " " +
              std::to_string(cache.size_bytes / 1024) + " KiB" +
              (cache.shared_by > 1 ? " shared by " + std::to_string(cache.shared_by) : "");
  row("caches", caches);
  row("memory", m.memory_bytes > 0 ? format_bytes(static_cast<double>(m.memory_bytes)) : "");
  for (const MachineDevice& device : m.devices)
    row("device " + device.id, device.name + (device.driver.empty() ? "" : "; " + device.driver));
  row("system", m.kernel);
  row("clock governor", m.governor);
  row("built by", m.compiler);
  row("LLVM", m.llvm);
  row("commit", m.commit);
  row("date", m.date);
  row("noise", m.noise ? format_fixed(100 * *m.noise, 2) + " %, one case repeated" : "");
  return card(results.name, html + "</tbody></table>\n");
}

std::string section(const std::string& id, const std::string& title, const std::string& words,
                    const std::string& grid_class, const std::string& content) {
  std::string html = "<section id=\"" + id + "\"><h2>" + title + "</h2>\n<p class=\"soft\">" + words + "</p>\n";
  if (content.empty()) return html + "<p>No result here has what this needs.</p></section>\n";
  return html + "<div class=\"" + grid_class + "\">\n" + content + "</div></section>\n";
}

}  // namespace

std::string report_page(std::span<const ResultsFile> files) {
  const std::vector<MachineResults> machines = by_machine(files);
  std::string roofline_cards, ratio_cards, history_cards, machine_cards;
  size_t rows = 0;
  for (const MachineResults& machine : machines) {
    roofline_cards += rooflines(machine);
    ratio_cards += ratios(machine);
    history_cards += histories(machine);
    machine_cards += machine_table(machine);
    rows += machine.latest.size();
  }
  std::string html =
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>Sporkle: measured results</title>\n<style>" +
      std::string(kReportStyle) + "</style></head>\n<body>\n<h1>Measured results</h1>\n<p class=\"soft\">" +
      std::to_string(rows) + (rows == 1 ? " result" : " results") + " of " + std::to_string(machines.size()) +
      (machines.size() == 1 ? " machine" : " machines") + ", from " + std::to_string(files.size()) +
      (files.size() == 1 ? " file" : " files") +
      ". Every case checked each element of its output before its time counted.</p>\n"
      "<nav aria-label=\"Sections\"><a href=\"#roofline\">Roofline</a> <a href=\"#ratios\">Rivals</a> "
      "<a href=\"#history\">History</a> <a href=\"#machines\">Machines</a> <a href=\"#results\">All "
      "results</a></nav>\n";
  html += section("roofline", "Roofline",
                  "How fast each case runs, and how fast this machine could run it: the ceilings, where results give "
                  "them, were measured in the same process. Left of the ridge memory is the limit, right of it "
                  "arithmetic.",
                  "grid", roofline_cards);
  html +=
      section("ratios", "Beside rivals",
              "How many times as fast as another program in the same run: the median of the rounds, with the lowest "
              "and highest round as whiskers.",
              "grid", ratio_cards);
  html +=
      section("history", "History", "Each case over time, by date and commit; whiskers show the noise of its rounds.",
              "grid small", history_cards);
  html += section("machines", "Machines", "What the results were measured on, as their latest file says.", "grid",
                  machine_cards);
  html +=
      "<section id=\"results\"><h2>All results</h2>\n<p class=\"soft\">The latest of each row, with the command that "
      "measures it again.</p>\n" +
      result_table(machines) + "</section>\n<script>" + std::string(kReportScript) + "</script>\n</body></html>\n";
  return html;
}

}  // namespace sporkle::bench

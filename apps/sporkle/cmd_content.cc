#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "apps/sporkle/bandwidth_options.h"
#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/listen_address.h"
#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "mesh/content_service.h"
#include "mesh/content_store.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;
using mesh::ContentStore;

struct ContentOptions {
  std::string store;
  double quota_gb = static_cast<double>(ContentStore::default_quota_bytes) / 1e9;
  std::string what;  // a file, a name or root, or a link
  std::vector<std::string> names;
  std::string kind = "model";
  std::vector<std::string> from;
  std::string output;
  std::string listen = "0.0.0.0:0";
  std::vector<std::string> addresses;
  double upload_mbit = 0;
  double download_mbit = 0;
  bool pin = false;
  bool unpin = false;
  bool repair = false;
  bool json = false;
};

Result<ContentStore> open_store(const ContentOptions& o) {
  return ContentStore::open(o.store.empty() ? home_directory() / "content" : fs::path(o.store),
                            static_cast<uint64_t>(o.quota_gb * 1e9));
}

std::string name_of(const ContentStore::Entry& entry) {
  return entry.manifest ? entry.manifest->name : to_hex(entry.root).substr(0, 16);
}

JsonObject entry_json(const char* event, const ContentStore& store, const ContentStore::Entry& entry) {
  JsonObject object;
  object.add("event", event).add("root", to_hex(entry.root));
  if (entry.manifest)
    object.add("name", entry.manifest->name)
        .add("kind", std::string(mesh::content_kind_name(entry.manifest->kind)))
        .add("size_bytes", entry.manifest->size_bytes)
        .add("signer", mesh::NodeId::of(entry.manifest->key).to_string());
  if (!entry.fault.empty()) object.add("fault", entry.fault);
  object.add("complete", entry.complete).add("pinned", entry.pinned).add("in_use", entry.in_use);
  object.add("disk_bytes", entry.disk_bytes).add("used_unix_ms", entry.used_unix_ms);
  if (entry.complete) object.add("path", store.data_path(entry.root).string());
  return object;
}

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

Progress bytes_progress(Terminal* terminal, const std::string& title, uint64_t total, bool quiet) {
  ProgressOptions options;
  options.quiet = quiet;
  return Progress(terminal, title, static_cast<double>(total), options);
}

Status add(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
  const auto kind = o.kind == "dataset"      ? mesh::ContentKind::dataset
                    : o.kind == "checkpoint" ? mesh::ContentKind::checkpoint
                                             : mesh::ContentKind::model;
  std::error_code error;
  const uint64_t size = fs::file_size(o.what, error);
  Terminal terminal(1);
  Progress progress = bytes_progress(&terminal, "adding", error ? 0 : size, o.json || error);
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore::Entry entry,
                           store.add(o.what, kind, identity, o.pin, [&](uint64_t bytes) {
                             progress.update(static_cast<double>(bytes), format_bytes(static_cast<double>(bytes)));
                           }));
  print(o.json ? entry_json("added", store, entry).text()
               : "Added '" + name_of(entry) + "', " + format_bytes(static_cast<double>(size)) + ":\n\n  " +
                     to_hex(entry.root) + "\n\nOthers get it while this runs:\n\n  sporkle content serve " +
                     to_hex(entry.root).substr(0, 16));
  return {};
}

Status list(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<ContentStore::Entry> entries, store.list());
  uint64_t sum = 0;
  for (const ContentStore::Entry& entry : entries) {
    sum += entry.disk_bytes;
    if (o.json) {
      print(entry_json("entry", store, entry).text());
      continue;
    }
    std::string state = !entry.fault.empty() ? "corrupt: " + entry.fault : entry.complete ? "complete" : "incomplete";
    if (entry.pinned) state += ", pinned";
    if (entry.in_use) state += ", in use";
    const uint64_t size = entry.manifest ? entry.manifest->size_bytes : entry.disk_bytes;
    char line[256];
    std::snprintf(line, sizeof line, "%s  %-10s  %10s  %s  (%s)", to_hex(entry.root).substr(0, 16).c_str(),
                  entry.manifest ? std::string(mesh::content_kind_name(entry.manifest->kind)).c_str() : "?",
                  format_bytes(static_cast<double>(size)).c_str(), name_of(entry).c_str(), state.c_str());
    print(line);
  }
  if (!o.json)
    print((entries.empty()
               ? "Nothing is in "
               : "\n" + format_bytes(static_cast<double>(sum)) + " of " + format_bytes(o.quota_gb * 1e9) + " in ") +
          store.folder().string());
  return {};
}

// The links to get it from: those given, or those that it came from before.
Result<std::vector<mesh::RunLink>> links_for(const ContentOptions& o, const ContentStore& store) {
  std::vector<std::string> texts = o.from;
  std::optional<Digest> root;
  if (o.what.starts_with("sporkle://")) {
    texts.insert(texts.begin(), o.what);
  } else {
    const auto entry = store.find(o.what);
    if (!entry.ok()) return entry.status();
    root = entry->root;
    if (texts.empty()) texts = entry->sources;
    if (texts.empty())
      return invalid_argument("where from? '" + name_of(*entry) +
                              "' did not come from another node; give a link of `sporkle content serve` with --from");
  }
  std::vector<mesh::RunLink> links;
  for (const std::string& text : texts) {
    SPORKLE_ASSIGN_OR_RETURN(links.emplace_back(), mesh::RunLink::parse(text));
    if (!mesh::content_in_link(links.back()))
      return invalid_argument("the link '" + text.substr(0, 80) +
                              "' names no content; `sporkle content serve` prints links that do");
    if (root && mesh::content_in_link(links.back()) != root)
      return invalid_argument("the link '" + text.substr(0, 80) + "' names other content than '" + o.what + "'");
  }
  return links;
}

Result<mesh::FetchedContent> fetch(const ContentOptions& o, const ContentStore& store,
                                   const std::vector<mesh::RunLink>& links) {
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
  mesh::ContentFetchOptions options;
  options.client.software = "sporkle " + std::string(version());
  options.client.upload_limit_bytes_per_s = bytes_per_second(o.upload_mbit);
  options.client.download_limit_bytes_per_s = bytes_per_second(o.download_mbit);
  Terminal terminal(1);
  std::optional<Progress> checking, fetching;
  options.on_checked = [&](uint64_t bytes, uint64_t total) {
    if (!checking) checking.emplace(bytes_progress(&terminal, "checking what is here", total, o.json));
    checking->update(static_cast<double>(bytes), format_bytes(static_cast<double>(bytes)));
  };
  options.on_bytes = [&](uint64_t bytes, uint64_t total) {
    if (!fetching) fetching.emplace(bytes_progress(&terminal, "fetching", total, o.json));
    fetching->update(static_cast<double>(bytes), format_bytes(static_cast<double>(bytes)));
    return !interrupted();
  };
  catch_interrupts();
  return mesh::fetch_content(store, links, identity, options);
}

Status get(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<mesh::RunLink> links, links_for(o, store));
  const auto start = std::chrono::steady_clock::now();
  SPORKLE_ASSIGN_OR_RETURN(const mesh::FetchedContent fetched, fetch(o, store, links));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const ContentStore::Entry& entry = fetched.entry;
  if (o.pin) SPORKLE_RETURN_IF_ERROR(store.set_pinned(entry.root, true));
  if (!o.output.empty()) {
    std::error_code error;
    const fs::path part = o.output + ".part";
    fs::copy_file(store.data_path(entry.root), part, fs::copy_options::overwrite_existing, error);
    if (!error) fs::rename(part, o.output, error);
    if (error) return errno_status(error.value(), "cannot write " + o.output);
  }
  const uint64_t came = entry.manifest->size_bytes - fetched.resumed_bytes;
  if (o.json) {
    JsonArray nodes;
    for (size_t i = 0; i < fetched.report.donors.size(); ++i) {
      const auto& donor = fetched.report.donors[i];
      JsonObject node;
      node.add("node", fetched.nodes[i].to_string()).add("bytes", donor.bytes);
      if (!donor.failure.ok()) node.add("failure", donor.failure.message());
      nodes.add(node);
    }
    print(entry_json("got", store, entry)
              .add("fetched_bytes", came)
              .add("resumed_bytes", fetched.resumed_bytes)
              .add("seconds", seconds)
              .add("nodes", nodes)
              .text());
    return {};
  }
  for (size_t i = 0; i < fetched.report.donors.size(); ++i)
    if (const Status& failure = fetched.report.donors[i].failure; !failure.ok())
      print("Node " + fetched.nodes[i].short_id() + " was asked no more: " + failure.message());
  print("'" + name_of(entry) + "' is here: fetched " + format_bytes(static_cast<double>(came)) + " in " +
        format_duration(seconds) + ", " + format_bytes(static_cast<double>(fetched.resumed_bytes)) +
        " were there. Signed by " + mesh::NodeId::of(entry.manifest->key).to_string() + ".\n\n  " +
        (o.output.empty() ? store.data_path(entry.root).string() : o.output));
  return {};
}

Status serve(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
  std::vector<ContentStore::Entry> entries;
  for (const std::string& name : o.names) {
    SPORKLE_ASSIGN_OR_RETURN(entries.emplace_back(), store.find(name));
  }
  if (o.names.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(entries, store.list());
    std::erase_if(entries, [](const ContentStore::Entry& e) { return !e.complete || !e.fault.empty(); });
    if (entries.empty())
      return not_found("nothing complete is in " + store.folder().string() +
                       "; add something: sporkle content add FILE");
  }
  mesh::ServerOptions server;
  SPORKLE_RETURN_IF_ERROR(parse_listen(o.listen, &server));
  server.software = "sporkle " + std::string(version());
  server.upload_limit_bytes_per_s = bytes_per_second(o.upload_mbit);
  server.download_limit_bytes_per_s = bytes_per_second(o.download_mbit);
  SPORKLE_ASSIGN_OR_RETURN(const auto service, mesh::ContentService::start(identity, store, entries, server));
  std::vector<mesh::Address> addresses;
  for (const std::string& host : o.addresses.empty() ? mesh::local_addresses() : o.addresses)
    if (addresses.size() < mesh::RunLink::max_addresses) addresses.push_back({host, service->port()});
  for (const ContentStore::Entry& entry : entries) {
    const std::string link = mesh::content_link(identity.id(), addresses, entry.root).to_string();
    print(o.json ? entry_json("link", store, entry).add("link", link).add("port", service->port()).text()
                 : name_of(entry) + ":\n  sporkle content get '" + link + "'\n");
  }
  if (!o.json) print("Ctrl-C stops.");
  catch_interrupts();
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const uint64_t sent = service->traffic().bytes_sent;
  print(o.json ? JsonObject().add("event", "summary").add("bytes_sent", sent).text()
               : "Sent " + format_bytes(static_cast<double>(sent)) + ".");
  return {};
}

Status remove(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore::Entry entry, store.find(o.what));
  SPORKLE_RETURN_IF_ERROR(store.remove(entry.root));
  print(o.json ? entry_json("removed", store, entry).text()
               : "Removed '" + name_of(entry) + "', " + format_bytes(static_cast<double>(entry.disk_bytes)) + ".");
  return {};
}

Status pin(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore::Entry entry, store.find(o.what));
  SPORKLE_RETURN_IF_ERROR(store.set_pinned(entry.root, !o.unpin));
  if (!o.json) print("'" + name_of(entry) + "' is " + (o.unpin ? "no longer " : "") + "pinned.");
  return {};
}

Status verify(const ContentOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ContentStore store, open_store(o));
  std::vector<ContentStore::Entry> entries;
  if (o.what.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(entries, store.list());
  } else {
    SPORKLE_ASSIGN_OR_RETURN(entries.emplace_back(), store.find(o.what));
  }
  Terminal terminal(1);
  size_t left_bad = 0;
  for (const ContentStore::Entry& entry : entries) {
    std::string outcome = "intact";
    size_t bad = 0;
    bool broken = !entry.manifest;
    if (broken) {
      outcome = entry.fault + "; remove it, and get it anew";
    } else if (!entry.complete) {
      outcome = "incomplete";
      broken = o.repair;
    } else {
      Progress progress = bytes_progress(&terminal, "verifying " + name_of(entry), entry.manifest->size_bytes, o.json);
      SPORKLE_ASSIGN_OR_RETURN(const std::vector<size_t> pieces, store.verify(entry, [&](uint64_t bytes) {
        progress.update(static_cast<double>(bytes), format_bytes(static_cast<double>(bytes)));
      }));
      bad = pieces.size();
      broken = bad > 0;
      if (broken)
        outcome = std::to_string(bad) + " of " + std::to_string(entry.manifest->piece_count()) +
                  " pieces are corrupt; --repair fetches them again";
    }
    if (broken && entry.manifest && o.repair) {
      ContentOptions again = o;
      again.what = to_hex(entry.root);
      const auto links = links_for(again, store);
      const auto fetched = links.ok() ? fetch(again, store, *links) : Result<mesh::FetchedContent>(links.status());
      broken = !fetched.ok();
      outcome = fetched.ok()
                    ? "repaired, " +
                          format_bytes(static_cast<double>(entry.manifest->size_bytes - fetched->resumed_bytes)) +
                          " fetched"
                    : "not repaired: " + fetched.status().message();
    }
    left_bad += broken;
    print(o.json ? entry_json("verified", store, entry)
                       .add("corrupt_pieces", bad)
                       .add("intact", !broken)
                       .add("outcome", outcome)
                       .text()
                 : "'" + name_of(entry) + "': " + outcome);
  }
  if (left_bad == 0) return {};
  return corrupt_data(std::to_string(left_bad) + (left_bad == 1 ? " entry is" : " entries are") + " not intact");
}

}  // namespace

void register_content(Cli& cli) {
  Command content = cli.command("content", "Keep datasets, checkpoints and models, give them to others and get theirs");
  const auto common = [](Command command, const std::shared_ptr<ContentOptions>& o) {
    command.option("--store", &o->store, "Folder of the content store (default: content in $SPORKLE_HOME)")
        .value_name("DIR");
    command.flag("--json", &o->json, "Print JSON");
  };
  const auto quota = [](Command command, const std::shared_ptr<ContentOptions>& o) {
    command
        .option("--quota", &o->quota_gb,
                "Size of the store, 10^9 bytes; what was used longest ago makes room, unless it is pinned or in use")
        .range(1e-6, 1e9)
        .value_name("GB");
  };
  const auto own = [] { return std::make_shared<ContentOptions>(); };

  auto a = own();
  Command adding = content.command("add", "Sign a file and put a copy of it into the store");
  adding.option("file", &a->what, "The file").required().value_name("FILE");
  adding.option("--kind", &a->kind, "What it is").one_of({"dataset", "checkpoint", "model"});
  adding.flag("--pin", &a->pin, "Never remove it to make room");
  quota(adding, a);
  common(adding, a);
  adding.example("content add model.safetensors --kind model", "Prints its root, by which others know it.");
  adding.action([a] { return add(*a); });

  auto l = own();
  Command listing = content.command("list", "Show what is in the store");
  quota(listing, l);
  common(listing, l);
  listing.example("content list", "The entry used last comes first.");
  listing.action([l] { return list(*l); });

  auto g = own();
  Command getting = content.command("get", "Fetch content from other nodes; goes on where it was interrupted");
  getting.option("what", &g->what, "A link of `sporkle content serve`, or the name or root of what came before")
      .required()
      .value_name("LINK");
  getting.option("--from", &g->from, "Link of another node that has the same (may be repeated): all are asked at once")
      .one_at_a_time()
      .value_name("LINK");
  getting.option("--output", &g->output, "Also copy it to this file").value_name("FILE");
  getting.flag("--pin", &g->pin, "Never remove it to make room");
  add_bandwidth_options(getting, &g->upload_mbit, &g->download_mbit, "to each node", "from each node");
  quota(getting, g);
  common(getting, g);
  getting.example("content get 'sporkle://...' --from 'sporkle://...'", "From two nodes, each piece checked.");
  getting.action([g] { return get(*g); });

  auto s = own();
  Command serving = content.command("serve", "Give content to others until Ctrl-C, and print the links to it");
  serving.option("names", &s->names, "Names or roots (default: all that is complete)").value_name("NAME");
  serving.option("--listen", &s->listen, "Address to listen on").value_name("HOST:PORT");
  serving.option("--address", &s->addresses, "Host that the links name (may be repeated; default: this machine's)")
      .one_at_a_time()
      .value_name("HOST");
  add_bandwidth_options(serving, &s->upload_mbit, &s->download_mbit, "to each node", "from each node");
  common(serving, s);
  serving.example("content serve --upload-limit 100", "Serves everything, at most 100 Mbit/s to each node.");
  serving.action([s] { return serve(*s); });

  auto r = own();
  Command removing = content.command("remove", "Remove an entry from the store");
  removing.option("what", &r->what, "Its name, or the first digits of its root").required().value_name("NAME");
  common(removing, r);
  removing.example("content remove model.safetensors", "Works for pinned entries too, not for one in use.");
  removing.action([r] { return remove(*r); });

  auto p = own();
  Command pinning = content.command("pin", "Keep an entry from being removed to make room");
  pinning.option("what", &p->what, "Its name, or the first digits of its root").required().value_name("NAME");
  pinning.flag("--off", &p->unpin, "Let it be removed again");
  common(pinning, p);
  pinning.example("content pin model.safetensors", "Until --off.");
  pinning.action([p] { return pin(*p); });

  auto v = own();
  Command verifying = content.command("verify", "Read entries whole and find what is corrupt");
  verifying.option("what", &v->what, "A name or root (default: everything)").value_name("NAME");
  verifying.flag("--repair", &v->repair, "Fetch what is corrupt or missing again, from where it came or --from");
  verifying.option("--from", &v->from, "Link to repair from (may be repeated)").one_at_a_time().value_name("LINK");
  quota(verifying, v);
  common(verifying, v);
  verifying.example("content verify --repair", "Only corrupt pieces are fetched.");
  verifying.action([v] { return verify(*v); });
}

}  // namespace sporkle::app

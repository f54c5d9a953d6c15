#include "run/store.h"

#include <sqlite3.h>

#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

namespace fs = std::filesystem;

constexpr int kFormat = 1;
constexpr int kApplicationId = 0x53504b52;  // "SPKR"

constexpr char kSchema[] = R"(
  CREATE TABLE manifest (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), content BLOB NOT NULL);
  CREATE TABLE round (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), number INTEGER, sequence INTEGER,
    leases_lost INTEGER, steps_done INTEGER, tokens_done INTEGER, next_unit INTEGER, bytes_in INTEGER,
    bytes_out INTEGER, round_bytes_in INTEGER, round_bytes_out INTEGER, workers_joined INTEGER, workers_lost INTEGER,
    norms BLOB);
  CREATE TABLE members (node BLOB PRIMARY KEY, name TEXT, software TEXT, threads INTEGER, session INTEGER,
    ready INTEGER, has_left INTEGER, present INTEGER, tokens_per_second REAL, failures INTEGER, last_accepted BLOB,
    tokens INTEGER, steps INTEGER, reports INTEGER, late INTEGER, rejected INTEGER, leases_lost INTEGER,
    bytes_in INTEGER, bytes_out INTEGER) WITHOUT ROWID;
  CREATE TABLE leases (id BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE returned_units (number INTEGER PRIMARY KEY);
  CREATE TABLE history (round INTEGER PRIMARY KEY, inner_steps INTEGER, reports INTEGER, leases_lost INTEGER,
    steps INTEGER, tokens INTEGER, train_loss REAL, validation_loss REAL, bytes_in INTEGER, bytes_out INTEGER,
    seconds REAL, closed_unix_ms INTEGER);
  CREATE TABLE blobs (name TEXT PRIMARY KEY, sha256 BLOB NOT NULL) WITHOUT ROWID;
)";

std::string_view view(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What later versions know of a round; earlier ones leave it alone.
constexpr char kRoundUpdates[] =
    "CREATE TABLE IF NOT EXISTS round_updates (round INTEGER PRIMARY KEY, compression TEXT, bytes INTEGER)";

}  // namespace

struct Store::State {
  fs::path folder;
  sqlite3* database = nullptr;
  std::map<std::string, sqlite3_stmt*> statements;
  Status failure;                    // of the transaction under way
  std::vector<std::string> dropped;  // files to delete after the commit

  ~State() {
    for (auto& [text, statement] : statements) sqlite3_finalize(statement);
    sqlite3_close(database);
  }

  Status error(std::string_view what) const {
    const int code = sqlite3_errcode(database);
    const std::string message =
        "the run's database in " + folder.string() + ": cannot " + std::string(what) + ": " + sqlite3_errmsg(database);
    switch (code & 0xff) {
      case SQLITE_FULL:
        return {Code::no_space, message + "; free some disk space and start again"};
      case SQLITE_BUSY:
        return {Code::already_exists, message + "; another process has this run open"};
      case SQLITE_NOTADB:
      case SQLITE_CORRUPT:
        return {Code::corrupt_data, message};
      default:
        return {Code::io_error, message};
    }
  }

  Status execute(const char* sql, std::string_view what) {
    return sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? Status() : error(what);
  }

  fs::path blob_path(const std::string& name) const { return folder / "blobs" / name; }
};

namespace {

// One use of a prepared statement: bind in order, step, read columns in order.
class Query {
 public:
  Query(sqlite3* database, std::map<std::string, sqlite3_stmt*>& statements, const char* sql) {
    sqlite3_stmt*& cached = statements[sql];
    if (!cached) sqlite3_prepare_v3(database, sql, -1, SQLITE_PREPARE_PERSISTENT, &cached, nullptr);
    statement_ = cached;
  }
  ~Query() {
    if (!statement_) return;
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  Query& integer(uint64_t value) {
    if (statement_) sqlite3_bind_int64(statement_, ++bound_, static_cast<sqlite3_int64>(value));
    return *this;
  }
  Query& real(double value) {
    if (statement_) sqlite3_bind_double(statement_, ++bound_, value);
    return *this;
  }
  Query& optional_real(const std::optional<double>& value) {
    if (value) return real(*value);
    ++bound_;
    return *this;
  }
  Query& text(std::string_view value) {
    if (statement_)
      sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return *this;
  }
  Query& blob(std::string_view value) {
    if (statement_)
      sqlite3_bind_blob64(statement_, ++bound_, value.empty() ? "" : value.data(), value.size(), SQLITE_TRANSIENT);
    return *this;
  }

  // SQLITE_ROW, SQLITE_DONE or an error.
  int step() {
    read_ = 0;
    return statement_ ? sqlite3_step(statement_) : SQLITE_ERROR;
  }
  uint64_t integer() { return static_cast<uint64_t>(sqlite3_column_int64(statement_, read_++)); }
  uint32_t small() { return static_cast<uint32_t>(integer()); }
  double real() { return sqlite3_column_double(statement_, read_++); }
  std::optional<double> optional_real() {
    if (sqlite3_column_type(statement_, read_) == SQLITE_NULL) {
      ++read_;
      return std::nullopt;
    }
    return real();
  }
  std::string bytes() {
    const void* data = sqlite3_column_blob(statement_, read_);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, read_++));
    return data ? std::string(static_cast<const char*>(data), size) : std::string();
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  int read_ = 0;
};

Result<mesh::NodeId> node_id(const std::string& bytes) {
  mesh::NodeId id;
  if (bytes.size() != id.bytes.size()) return corrupt_data("the run's database names a node that is none");
  std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
  return id;
}

Result<LeaseRecord> decode_lease(const std::string& content) {
  proto::StoredLease from;
  if (!from.ParseFromString(content)) return corrupt_data("the run's database has a lease that cannot be read");
  LeaseRecord lease;
  SPORKLE_ASSIGN_OR_RETURN(lease.node, node_id(from.node()));
  lease.id = from.id();
  lease.round = from.round();
  lease.sequence = from.sequence();
  lease.units.assign(from.units().begin(), from.units().end());
  lease.steps = from.steps();
  lease.schedule_step = from.schedule_step();
  lease.schedule_stride = from.schedule_stride();
  lease.state = static_cast<LeaseState>(from.state());
  lease.reported_steps = from.reported_steps();
  lease.reported_tokens = from.reported_tokens();
  lease.reported_mean_loss = from.reported_mean_loss();
  lease.reported_norm = from.reported_norm();
  lease.blob = from.blob();
  lease.compression = static_cast<train::Compression>(from.compression());
  lease.any_compression = from.any_compression();
  lease.update_bytes = from.update_bytes();
  lease.by_peers = from.by_peers();
  lease.committed = from.committed();
  return lease;
}

}  // namespace

Store::Store(std::unique_ptr<State> state) : state_(std::move(state)) {}
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(const fs::path& folder) {
  auto state = std::make_unique<State>();
  state->folder = folder;
  std::error_code error;
  fs::create_directories(folder / "blobs", error);
  if (error) return errno_status(error.value(), "cannot create " + (folder / "blobs").string());
  const std::string path = (folder / "run.db").string();
  if (sqlite3_open_v2(path.c_str(), &state->database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr) != SQLITE_OK)
    return state->error("open it");
  sqlite3_extended_result_codes(state->database, 1);
  // The lock is taken with the first access and kept: two coordinators never write one run.
  SPORKLE_RETURN_IF_ERROR(
      state->execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; "
                     "PRAGMA synchronous = FULL; BEGIN IMMEDIATE; COMMIT",
                     "open it"));
  auto store = std::unique_ptr<Store>(new Store(std::move(state)));
  State& s = *store->state_;
  const auto pragma = [&s](const char* sql) {
    Query query(s.database, s.statements, sql);
    return query.step() == SQLITE_ROW ? static_cast<int>(query.integer()) : -1;
  };
  const int format = pragma("PRAGMA user_version");
  const int application = pragma("PRAGMA application_id");
  const int tables = pragma("SELECT count(*) FROM sqlite_master");
  if (tables == 0) {
    const std::string create = std::string("BEGIN;") + kSchema +
                               "PRAGMA application_id = " + std::to_string(kApplicationId) +
                               "; PRAGMA user_version = " + std::to_string(kFormat) + "; COMMIT";
    SPORKLE_RETURN_IF_ERROR(s.execute(create.c_str(), "create its tables"));
  } else if (application != kApplicationId) {
    return corrupt_data(path + " is a database of another program");
  } else if (format != kFormat) {
    return unsupported(path + " has format " + std::to_string(format) + ", this program reads format " +
                       std::to_string(kFormat));
  }
  SPORKLE_RETURN_IF_ERROR(s.execute(kRoundUpdates, "create a table"));
  // Sweep what a crash left behind.
  std::set<std::string> named;
  {
    Query query(s.database, s.statements, "SELECT name FROM blobs");
    while (query.step() == SQLITE_ROW) named.insert(query.bytes());
  }
  for (const auto& entry : fs::directory_iterator(folder / "blobs", error))
    if (!named.contains(entry.path().filename().string())) fs::remove(entry.path(), error);
  return store;
}

Result<std::string> Store::manifest() {
  Query query(state_->database, state_->statements, "SELECT content FROM manifest");
  const int result = query.step();
  if (result == SQLITE_DONE) return std::string();
  if (result != SQLITE_ROW) return state_->error("read the manifest");
  return query.bytes();
}

Result<CoordinatorState> Store::load() {
  State& s = *state_;
  CoordinatorState state;
  int result;
  {
    Query query(s.database, s.statements, "SELECT * FROM round");
    if (query.step() != SQLITE_ROW) return corrupt_data("the run's database in " + s.folder.string() + " has no round");
    RoundState& r = state.round;
    query.integer();
    r.number = query.integer();
    r.sequence = query.small();
    r.leases_lost = query.small();
    r.steps_done = query.integer();
    r.tokens_done = query.integer();
    r.next_unit = query.integer();
    r.bytes_in = query.integer();
    r.bytes_out = query.integer();
    r.round_bytes_in = query.integer();
    r.round_bytes_out = query.integer();
    r.workers_joined = query.integer();
    r.workers_lost = query.integer();
    const std::string norms = query.bytes();
    r.norms.resize(norms.size() / sizeof(double));
    if (!r.norms.empty()) std::memcpy(r.norms.data(), norms.data(), r.norms.size() * sizeof(double));
  }
  {
    Query query(s.database, s.statements, "SELECT * FROM members ORDER BY node");
    while ((result = query.step()) == SQLITE_ROW) {
      Member m;
      SPORKLE_ASSIGN_OR_RETURN(m.id, node_id(query.bytes()));
      m.name = query.bytes();
      m.software = query.bytes();
      m.threads = query.small();
      m.session = query.integer();
      m.ready = query.integer() != 0;
      m.left = query.integer() != 0;
      m.present = query.integer() != 0;
      m.tokens_per_second = query.real();
      m.failures = query.small();
      m.last_accepted = query.bytes();
      m.tokens = query.integer();
      m.steps = query.integer();
      m.reports = query.integer();
      m.late = query.integer();
      m.rejected = query.integer();
      m.leases_lost = query.integer();
      m.bytes_in = query.integer();
      m.bytes_out = query.integer();
      state.members.push_back(std::move(m));
    }
    if (result != SQLITE_DONE) return s.error("read the members");
  }
  {
    Query query(s.database, s.statements, "SELECT content FROM leases");
    while ((result = query.step()) == SQLITE_ROW) {
      SPORKLE_ASSIGN_OR_RETURN(LeaseRecord lease, decode_lease(query.bytes()));
      state.leases.push_back(std::move(lease));
    }
    if (result != SQLITE_DONE) return s.error("read the leases");
  }
  {
    Query query(s.database, s.statements, "SELECT number FROM returned_units");
    while ((result = query.step()) == SQLITE_ROW) state.returned_units.insert(query.integer());
    if (result != SQLITE_DONE) return s.error("read the returned units");
  }
  {
    Query query(s.database, s.statements, "SELECT * FROM history LEFT JOIN round_updates USING (round) ORDER BY round");
    while ((result = query.step()) == SQLITE_ROW) {
      RoundRecord h;
      h.round = query.integer();
      h.inner_steps = query.small();
      h.reports = query.small();
      h.leases_lost = query.small();
      h.steps = query.integer();
      h.tokens = query.integer();
      h.train_loss = query.real();
      h.validation_loss = query.optional_real();
      h.bytes_in = query.integer();
      h.bytes_out = query.integer();
      h.seconds = query.real();
      h.closed_unix_ms = static_cast<int64_t>(query.integer());
      h.compression = query.bytes();
      h.update_bytes = query.integer();
      state.history.push_back(h);
    }
    if (result != SQLITE_DONE) return s.error("read the history");
  }
  return state;
}

Result<std::vector<std::byte>> Store::read_blob(const std::string& name) {
  std::string digest;
  {
    Query query(state_->database, state_->statements, "SELECT sha256 FROM blobs WHERE name = ?");
    query.text(name);
    if (query.step() != SQLITE_ROW) return not_found("the run in " + state_->folder.string() + " has no blob " + name);
    digest = query.bytes();
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::string content, read_file(state_->blob_path(name)));
  if (view(sha256(content)) != digest)
    return corrupt_data(state_->blob_path(name).string() + " is not what was written: its SHA-256 differs");
  const auto bytes = std::as_bytes(std::span(content));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

void Store::begin() {
  state_->failure = state_->execute("BEGIN IMMEDIATE", "begin a transaction");
  state_->dropped.clear();
}

#define SPORKLE_RUN_QUERY(name, sql) \
  if (!state_->failure.ok()) return; \
  Query name(state_->database, state_->statements, sql)
#define SPORKLE_FINISH_QUERY(name, what) \
  if ((name).step() != SQLITE_DONE) state_->failure = state_->error(what)

void Store::put_manifest(std::string_view manifest) {
  SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO manifest VALUES (1, ?)");
  query.blob(manifest);
  SPORKLE_FINISH_QUERY(query, "write the manifest");
}

void Store::put_round(const RoundState& r) {
  SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO round VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  query.integer(r.number).integer(r.sequence).integer(r.leases_lost).integer(r.steps_done).integer(r.tokens_done);
  query.integer(r.next_unit).integer(r.bytes_in).integer(r.bytes_out).integer(r.round_bytes_in);
  query.integer(r.round_bytes_out).integer(r.workers_joined).integer(r.workers_lost);
  query.blob(view(std::as_bytes(std::span(r.norms))));
  SPORKLE_FINISH_QUERY(query, "write the round");
}

void Store::put_member(const Member& m) {
  SPORKLE_RUN_QUERY(query,
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  query.blob(view(m.id.bytes)).text(m.name).text(m.software).integer(m.threads).integer(m.session).integer(m.ready);
  query.integer(m.left)
      .integer(m.present)
      .real(m.tokens_per_second)
      .integer(m.failures)
      .blob(m.last_accepted)
      .integer(m.tokens);
  query.integer(m.steps).integer(m.reports).integer(m.late).integer(m.rejected).integer(m.leases_lost);
  query.integer(m.bytes_in).integer(m.bytes_out);
  SPORKLE_FINISH_QUERY(query, "write a member");
}

void Store::put_lease(const LeaseRecord& lease) {
  proto::StoredLease to;
  to.set_id(lease.id);
  to.set_node(std::string(view(lease.node.bytes)));
  to.set_round(lease.round);
  to.set_sequence(lease.sequence);
  to.mutable_units()->Add(lease.units.begin(), lease.units.end());
  to.set_steps(lease.steps);
  to.set_schedule_step(lease.schedule_step);
  to.set_schedule_stride(lease.schedule_stride);
  to.set_state(static_cast<uint32_t>(lease.state));
  to.set_reported_steps(lease.reported_steps);
  to.set_reported_tokens(lease.reported_tokens);
  to.set_reported_mean_loss(lease.reported_mean_loss);
  to.set_reported_norm(lease.reported_norm);
  to.set_blob(lease.blob);
  to.set_compression(static_cast<uint32_t>(lease.compression));
  to.set_any_compression(lease.any_compression);
  to.set_update_bytes(lease.update_bytes);
  to.set_by_peers(lease.by_peers);
  to.set_committed(lease.committed);
  SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO leases VALUES (?, ?)");
  query.blob(lease.id).blob(to.SerializeAsString());
  SPORKLE_FINISH_QUERY(query, "write a lease");
}

void Store::clear_leases() {
  SPORKLE_RUN_QUERY(query, "DELETE FROM leases");
  SPORKLE_FINISH_QUERY(query, "clear the leases");
}

void Store::put_returned(const std::set<uint64_t>& units) {
  {
    SPORKLE_RUN_QUERY(query, "DELETE FROM returned_units");
    SPORKLE_FINISH_QUERY(query, "write the returned units");
  }
  for (const uint64_t unit : units) {
    SPORKLE_RUN_QUERY(query, "INSERT INTO returned_units VALUES (?)");
    query.integer(unit);
    SPORKLE_FINISH_QUERY(query, "write the returned units");
  }
}

void Store::put_history(const RoundRecord& h) {
  {
    SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO round_updates VALUES (?, ?, ?)");
    query.integer(h.round).text(h.compression).integer(h.update_bytes);
    SPORKLE_FINISH_QUERY(query, "write the history");
  }
  SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  query.integer(h.round).integer(h.inner_steps).integer(h.reports).integer(h.leases_lost).integer(h.steps);
  query.integer(h.tokens).real(h.train_loss).optional_real(h.validation_loss).integer(h.bytes_in);
  query.integer(h.bytes_out).real(h.seconds).integer(static_cast<uint64_t>(h.closed_unix_ms));
  SPORKLE_FINISH_QUERY(query, "write the history");
}

void Store::put_blob(const std::string& name, std::span<const std::byte> content) {
  if (!state_->failure.ok()) return;
  state_->failure = write_file_atomically(state_->blob_path(name), content);
  std::erase(state_->dropped, name);
  const Digest digest = sha256(content);
  SPORKLE_RUN_QUERY(query, "INSERT OR REPLACE INTO blobs VALUES (?, ?)");
  query.text(name).blob(view(digest));
  SPORKLE_FINISH_QUERY(query, "name a blob");
}

void Store::drop_blob(const std::string& name) {
  SPORKLE_RUN_QUERY(query, "DELETE FROM blobs WHERE name = ?");
  query.text(name);
  SPORKLE_FINISH_QUERY(query, "drop a blob");
  state_->dropped.push_back(name);
}

#undef SPORKLE_RUN_QUERY
#undef SPORKLE_FINISH_QUERY

Status Store::commit() {
  if (state_->failure.ok()) state_->failure = state_->execute("COMMIT", "commit a transaction");
  if (!state_->failure.ok()) {
    if (sqlite3_get_autocommit(state_->database) == 0) {
      const Status rolled_back = state_->execute("ROLLBACK", "roll back a transaction");
      if (!rolled_back.ok()) log(LogLevel::warning, "run", rolled_back.message());
    }
    return state_->failure;
  }
  for (const std::string& name : state_->dropped) {
    std::error_code error;
    fs::remove(state_->blob_path(name), error);  // a leftover is swept at the next start
  }
  return {};
}

}  // namespace sporkle::run

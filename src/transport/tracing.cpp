#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>
#include <wanpar/transport/tracing.hpp>

#include "transport/observing.hpp"

namespace wanpar {
namespace {

using Clock = std::chrono::steady_clock;
using Nanoseconds = int64_t;

Nanoseconds now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

/// What a string is in JSON.
std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (auto letter : text) {
    if (letter == '"' || letter == '\\') out += '\\';
    if (static_cast<unsigned char>(letter) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(letter));
    else
      out += letter;
  }
  return out + "\"";
}

}  // namespace

/// What one rank has done so far.
struct Tracing::Book {
  struct Slice {
    size_t track;
    const char* kind;
    std::string name;
    Nanoseconds begin, end;
  };
  struct Transfer {
    std::string name, call;
    int64_t bytes;
    Nanoseconds begin, end;
  };

  std::mutex mutex;
  int rank = 0;
  std::vector<Slice> slices;
  std::vector<Transfer> transfers;
  struct Track {
    size_t number;
    Nanoseconds free_since = 0;  // of calls and of the edges of scopes: what lies between is computing
  };
  std::map<std::thread::id, Track> tracks;
  /// To what steady clocks show, for the time of day.
  Nanoseconds offset = std::chrono::duration_cast<std::chrono::nanoseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count() -
                       now();

  Track& track() {
    return tracks.try_emplace(std::this_thread::get_id(), Track{tracks.size()}).first->second;
  }

  /// Something begins or ends on this thread.
  Nanoseconds edge() {
    const auto at = now();
    std::lock_guard lock(mutex);
    auto& track = this->track();
    if (track.free_since > 0 && at > track.free_since)
      slices.push_back({track.number, "compute", "compute", track.free_since, at});
    track.free_since = at;
    return at;
  }

  /// What began at an edge ends. A call is no computing; what a scope does at its end may be.
  void add(const char* kind, std::string name, Nanoseconds begin, bool is_call) {
    auto end = is_call ? now() : edge();
    std::lock_guard lock(mutex);
    auto& track = this->track();
    if (is_call) track.free_since = end;
    slices.push_back({track.number, kind, std::move(name), begin, end});
  }

  Nanoseconds start = now() + offset;

  std::string text(Nanoseconds zero);
};

/// The events of this rank, with commas between them.
std::string Tracing::Book::text(Nanoseconds zero) {
  std::lock_guard lock(mutex);
  auto micro = [](Nanoseconds time) { return fmt::format("{}.{:03}", time / 1000, time % 1000); };
  auto at = [&](Nanoseconds time) { return micro(time + offset - zero); };
  // What begins together is shown in the order of the file, the outermost first.
  std::ranges::stable_sort(
      slices, [](auto& a, auto& b) { return a.begin != b.begin ? a.begin < b.begin : a.end > b.end; });
  auto out = fmt::format(R"({{"ph":"M","name":"process_name","pid":{0},"args":{{"name":"rank {0}"}}}})"
                         ",\n"
                         R"({{"ph":"M","name":"process_sort_index","pid":{0},"args":{{"sort_index":{0}}}}})",
                         rank);
  for (auto& [id, track] : tracks)
    out += fmt::format(
        ",\n"
        R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
        rank, track.number, track.number == 0 ? "rank" : "another thread");
  for (auto& slice : slices)
    out += fmt::format(
        ",\n"
        R"({{"ph":"X","name":{},"cat":"{}","pid":{},"tid":{},"ts":{},"dur":{}}})",
        json_string(slice.name), slice.kind, rank, slice.track, at(slice.begin),
        micro(slice.end - slice.begin));
  for (size_t i = 0; i < transfers.size(); ++i) {
    auto& one = transfers[i];
    auto common = fmt::format(R"("name":{},"cat":"transfer","pid":{},"tid":0,"id2":{{"local":"{}"}})",
                              json_string(one.name), rank, i);
    out += fmt::format(
        ",\n"
        R"({{"ph":"b",{},"ts":{},"args":{{"bytes":{},"call":{}}}}})",
        common, at(one.begin), one.bytes, json_string(one.call));
    out += fmt::format(
        ",\n"
        R"({{"ph":"e",{},"ts":{}}})",
        common, at(one.end));
  }
  return out;
}

/// A transfer under way, which is written down when it was waited for.
class Tracing::TracedWork : public Work {
 public:
  TracedWork(std::shared_ptr<Work> inner, std::shared_ptr<Book> book, Book::Transfer transfer)
      : inner_(std::move(inner)), book_(std::move(book)), transfer_(std::move(transfer)) {}

  void wait() override {
    auto begin = book_->edge();
    inner_->wait();
    book_->add("wait", "wait " + transfer_.name, begin, true);
    transfer_.end = now();
    std::lock_guard lock(book_->mutex);
    book_->transfers.push_back(std::move(transfer_));
  }
  std::optional<int64_t> sent() const override { return inner_->sent(); }

 private:
  std::shared_ptr<Work> inner_;
  std::shared_ptr<Book> book_;
  Book::Transfer transfer_;
};

class Tracing::Tracer : public Observing {
 public:
  Tracer(std::shared_ptr<Transport> inner, std::shared_ptr<Book> book)
      : Observing(std::move(inner)), book_(std::move(book)) {}

  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override {
    auto begin = book_->edge();
    auto part = Observing::split(members, call);
    book_->add("wait", name(call.operation), begin, true);
    return part;
  }

 protected:
  std::shared_ptr<Work> seen(const Call& call, const Begin& begin, const Bytes& bytes) override {
    std::string operation = name(call.operation);
    auto at = book_->edge();
    auto work = begin();
    book_->add("begin", "begin " + operation, at, true);
    auto sent = bytes(*work);
    return std::make_shared<TracedWork>(std::move(work), book_,
                                        Book::Transfer{std::move(operation), describe(call), sent, at, at});
  }
  std::shared_ptr<Transport> around(std::shared_ptr<Transport> part) const override {
    return std::make_shared<Tracer>(std::move(part), book_);
  }

 private:
  std::shared_ptr<Book> book_;
};

namespace {

/// Who hears of the scopes on this thread: the profiler's callbacks carry nothing of ours.
thread_local std::function<Nanoseconds()> scope_begins;
thread_local std::function<void(const char*, Nanoseconds)> scope_ends;

struct ScopeAtHand : at::ObserverContext {
  Nanoseconds begin = 0;
};

std::unique_ptr<at::ObserverContext> begin_scope(const at::RecordFunction&) {
  if (!scope_begins) return nullptr;  // another thread, which works for this one
  auto scope = std::make_unique<ScopeAtHand>();
  scope->begin = scope_begins();
  return scope;
}

void end_scope(const at::RecordFunction& function, at::ObserverContext* scope) {
  if (scope && scope_ends) scope_ends(function.name(), static_cast<ScopeAtHand*>(scope)->begin);
}

}  // namespace

Tracing::Tracing()
    : book_(std::make_shared<Book>()),
      scopes_(at::addThreadLocalCallback(
          at::RecordFunctionCallback(begin_scope, end_scope).scopes({at::RecordScope::USER_SCOPE}))) {
  scope_begins = [book = book_] { return book->edge(); };
  scope_ends = [book = book_](const char* name, Nanoseconds begin) {
    book->add("scope", name, begin, false);
  };
  book_->edge();
}

Tracing::~Tracing() {
  at::removeCallback(scopes_);
  scope_begins = nullptr;
  scope_ends = nullptr;
}

Communicator Tracing::operator()(const Communicator& communicator) {
  book_->rank = communicator.rank();
  if (communicator.size() == 1) return communicator;
  return Communicator(std::make_shared<Tracer>(communicator.transport(), book_), communicator.timeout());
}

std::string Tracing::of_all(const Communicator& group) const {
  book_->edge();  // what was computed last
  auto first =
      group.all_reduce(at::tensor({book_->start}, at::kLong).to(group.device()), ReduceOp::min).get();
  auto own = book_->text(first.item<int64_t>());
  auto all = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" + own;
  if (group.size() > 1) {
    auto size = static_cast<int64_t>(own.size());
    auto sizes = group.all_gather(at::tensor({size}, at::kLong).to(group.device())).get().cpu();
    auto bytes = at::from_blob(own.data(), {size}, at::kByte).to(group.device());
    std::vector<Receive> receives;
    for (int rank = 1; rank < group.size() && group.rank() == 0; ++rank)
      receives.push_back({{sizes[rank].item<int64_t>()}, bytes.options(), rank});
    std::vector<Send> sends;
    if (group.rank() > 0) sends.push_back({bytes, 0});
    for (auto& other : group.exchange(std::move(sends), std::move(receives)).get()) {
      auto text = other.cpu();
      all +=
          ",\n" + std::string(static_cast<const char*>(text.data_ptr()), static_cast<size_t>(text.numel()));
    }
  }
  return group.rank() == 0 ? all + "\n]}\n" : std::string();
}

}  // namespace wanpar

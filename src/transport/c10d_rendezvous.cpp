// How the processes of a run find each other, and find out who is missing, before a process group is made.
#include "transport/c10d_rendezvous.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <map>
#include <sstream>
#include <thread>
#include <wanpar/core/error.hpp>

#include "core/sentence.hpp"
#include "transport/c10d_quiet_log.hpp"
#include "transport/c10d_store.hpp"
#include "transport/within.hpp"

namespace wanpar {
namespace {

using std::chrono::milliseconds;

constexpr const char* kAllAreHere = "all are here";

/// Whether this process is the one that binds the port.
bool hosts_store(const Rendezvous& r) { return r.rank == 0 && !r.store_is_there; }

/// How others find this process is found out here too: a resolver may take its time, as a store may.
Meeting open_store(const Rendezvous& r, const Deadline& deadline) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(r.port);
  options.isServer = hosts_store(r);
  options.waitWorkers = false;
  options.timeout = deadline.left();
  std::string detail = "no reply";
  try {
    auto meeting = within<Meeting>(deadline.left(), [host = r.host, options] {
      QuietLog quiet;  // of a thread that may outlive the caller's
      auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
      auto master = Endpoint::find(host, options.port);
      if (!master) throw UsageError(fmt::format("no host is known as '{}'", host));
      return Meeting{store, std::make_shared<Pulse>(host, *master)};
    });
    if (meeting) return *meeting;
  } catch (const std::exception& failure) {
    detail = first_line(failure.what());
  }
  if (hosts_store(r))
    throw UsageError(
        fmt::format("rank {}: port {} of this host is already held, by another program or by a second rank "
                    "0; set MASTER_PORT to a free port ({})",
                    r.rank, r.port, detail));
  auto somebody = within<bool>(milliseconds(500), [host = r.host, port = r.port] {
    auto master = Endpoint::find(host, port);
    return master && listens(*master, 200);
  });
  if (somebody.value_or(false))
    throw TimeoutError(
        fmt::format("rank {}: something listens at {}:{}, but did not answer as rank 0 would within {} s; is "
                    "rank 0 stopped or overloaded, or does another program hold that port? Set MASTER_PORT "
                    "to a free port, the same on every rank ({})",
                    r.rank, r.host, r.port, seconds(r.timeout), detail));
  throw TimeoutError(
      fmt::format("rank {}: no rank 0 answers at {}:{} within {} s; is it running, and are MASTER_ADDR and "
                  "MASTER_PORT the same on every rank? ({})",
                  r.rank, r.host, r.port, seconds(r.timeout), detail));
}

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }
std::string text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

/// What a rank says of itself.
struct Report {
  std::string address, gpu;
};

/// The reports that have come: `rank gpu,address` a line.
std::vector<Report> reports(c10d::Store& store, int world_size) {
  std::vector<Report> all(world_size);
  std::istringstream lines(text(store.get("here")));
  int rank = 0;
  std::string gpu, address;
  while (lines >> rank && std::getline(lines >> std::ws, gpu, ',') && std::getline(lines, address))
    all.at(rank) = {address, gpu};
  return all;
}

/// Why the ranks do not come together; it is the same kind of error on each of them.
enum class Why : char { usage = 'u', mismatch = 'm', timeout = 't' };

/// Ends this rank with the first failure of all; the one that hosts the store stays until the others have
/// read it too.
[[noreturn]] void end_with(c10d::Store& store, const Rendezvous& r, Why why, const std::string& sentence) {
  auto own = static_cast<char>(why) + sentence;
  auto first = text(store.compareSet("verdict", bytes(""), bytes(own)));
  auto read = store.add("read", 1);
  Deadline deadline(std::chrono::seconds(2));
  while (hosts_store(r) && read < store.add("come", 0) && !deadline.is_over()) {
    std::this_thread::sleep_for(milliseconds(10));
    read = store.add("read", 0);
  }
  if (first == kAllAreHere) first = own;
  auto what = first.substr(1);
  switch (static_cast<Why>(first[0])) {
    case Why::usage:
      throw UsageError(what);
    case Why::mismatch:
      throw MismatchError(what);
    default:
      throw TimeoutError(what);
  }
}

/// Every rank reports once, and the last one says that all are here; what does not fit is said in the same
/// place, so that all end with the same sentence. Nobody asks again and again: the store tells when that is
/// there. Gives all reports.
std::vector<Report> report_and_wait(c10d::Store& store, const Rendezvous& r, const Deadline& deadline,
                                    const Report& own) {
  auto fail = [&](Why why, const std::string& sentence) { end_with(store, r, why, sentence); };
  store.add("come", 1);
  auto first =
      text(store.compareSet("world_size", bytes(""), bytes(fmt::format("{} {}", r.world_size, r.rank))));
  auto size = std::stoi(first);
  if (size != r.world_size)
    fail(Why::mismatch,
         fmt::format("rank {} was told of {} ranks, rank {} of {}; start every rank with the same world size",
                     r.rank, r.world_size, first.substr(first.find(' ') + 1), size));
  if (store.add(fmt::format("rank {}", r.rank), 1) > 1)
    fail(Why::usage, fmt::format("rank {} was started twice; give each process a rank of its own", r.rank));

  store.append("here", bytes(fmt::format("{} {},{}\n", r.rank, own.gpu, own.address)));
  if (store.add("ranks", 1) == r.world_size) store.compareSet("verdict", bytes(""), bytes(kAllAreHere));
  try {
    store.wait({"verdict"}, deadline.left(milliseconds(1)));
  } catch (const StoreLost&) {
    throw;
  } catch (const std::exception&) {  // it is not there
    store.setTimeout(milliseconds(1000));
    auto all = reports(store, r.world_size);
    std::vector<int> missing;
    for (int rank = 0; rank < r.world_size; ++rank)
      if (all[rank].address.empty()) missing.push_back(rank);
    fail(Why::timeout,
         fmt::format("rank {} waited {} s for {} {} of {}, which never came", r.rank, seconds(r.timeout),
                     missing.size() > 1 ? "ranks" : "rank", fmt::join(missing, ", "), r.world_size));
  }
  if (auto verdict = text(store.get("verdict")); verdict != kAllAreHere)
    fail(static_cast<Why>(verdict[0]), verdict.substr(1));
  auto all = reports(store, r.world_size);
  std::map<std::string, int> holders;
  for (int rank = 0; rank < r.world_size; ++rank)
    if (auto [held, is_first] = holders.emplace(all[rank].gpu, rank); !is_first && !all[rank].gpu.empty())
      end_with(store, r, Why::usage,
               fmt::format("Not enough GPUs available: ranks {} and {} have the same one; start one rank for "
                           "each GPU, or show each rank another by CUDA_VISIBLE_DEVICES",
                           held->second, rank));
  return all;
}

}  // namespace

Meeting meet_in_store(const Rendezvous& r, const std::string& gpu, const Deadline& deadline) {
  auto [opened, pulse] = open_store(r, deadline);
  auto keeper = r.store_is_there ? "the launcher's agent" : "rank 0";
  auto limited = c10::make_intrusive<LimitedStore>(
      opened, deadline.left(milliseconds(1000)),
      fmt::format("{}, which keeps the store of all ranks at {}:{},", keeper, r.host, r.port));
  auto store = c10::make_intrusive<c10d::PrefixStore>("wanpar" + r.run, limited);
  const auto period = r.heartbeat.period.count();
  std::vector<std::string> addresses;
  for (auto& report :
       report_and_wait(*store, r, deadline, {fmt::format("{} {}", pulse->address(), period), gpu}))
    addresses.push_back(report.address);
  for (auto& address : addresses)
    if (address.substr(address.rfind(' ') + 1) != addresses[0].substr(addresses[0].rfind(' ') + 1))
      end_with(*store, r, Why::mismatch,
               "the ranks were told of different heartbeats; start every rank with the same one");
  pulse->meet(r.rank, r.store_is_there ? -1 : 0, addresses, r.heartbeat);
  return {store, pulse};
}

}  // namespace wanpar

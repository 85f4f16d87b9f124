// How the processes of a run find each other, and find out who is missing, before a process group is made.
#include "transport/c10d_rendezvous.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <thread>
#include <wanpar/core/error.hpp>

#include "core/sentence.hpp"

namespace wanpar {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(std::chrono::milliseconds time) { return std::chrono::duration<double>(time).count(); }

c10::intrusive_ptr<c10d::Store> open_store(const Rendezvous& r) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(r.port);
  options.isServer = r.hosts_store;
  options.waitWorkers = false;
  options.timeout = r.timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(r.host, options);
  } catch (const std::exception& failure) {
    if (r.hosts_store)
      throw Error(
          fmt::format("rank {}: port {} of this host is already held, by another program or by a second rank "
                      "0; set MASTER_PORT to a free port",
                      r.rank, r.port));
    throw Error(
        fmt::format("rank {}: no rank 0 answers at {}:{} within {} s; is it running, and are MASTER_ADDR and "
                    "MASTER_PORT the same on every rank? ({})",
                    r.rank, r.host, r.port, seconds(r.timeout), first_line(failure.what())));
  }
}

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }
std::string text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

/// Ends this rank with the first failure of all; the one that hosts the store stays until the others have
/// read it too.
[[noreturn]] void end_with(c10d::Store& store, const Rendezvous& r, const std::string& why) {
  auto first = text(store.compareSet("failure", bytes(""), bytes(why)));
  auto read = store.add("read", 1);
  auto deadline = Clock::now() + std::chrono::seconds(2);
  while (r.hosts_store && read < store.add("come", 0) && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    read = store.add("read", 0);
  }
  throw Error(first);
}

/// Every rank reports once; what does not fit is written where all see it, so that all end with the same
/// sentence.
void report_and_wait(c10d::Store& store, const Rendezvous& r) {
  auto fail = [&](const std::string& why) { end_with(store, r, why); };
  store.add("come", 1);
  auto first =
      text(store.compareSet("world_size", bytes(""), bytes(fmt::format("{} {}", r.world_size, r.rank))));
  auto size = std::stoi(first);
  if (size != r.world_size)
    fail(fmt::format("rank {} was told of {} ranks, rank {} of {}; start every rank with the same world size",
                     r.rank, r.world_size, first.substr(first.find(' ') + 1), size));
  if (store.add(fmt::format("rank {}", r.rank), 1) > 1)
    fail(fmt::format("rank {} was started twice; give each process a rank of its own", r.rank));

  auto deadline = Clock::now() + r.timeout;
  for (std::vector<int> missing;; missing.clear()) {
    for (int rank = 0; rank < r.world_size; ++rank)
      if (!store.check({fmt::format("rank {}", rank)})) missing.push_back(rank);
    if (store.check({"failure"})) fail(text(store.get("failure")));
    if (missing.empty()) return;
    if (Clock::now() > deadline)
      fail(fmt::format("rank {} waited {} s for {} {} of {}, which never came", r.rank, seconds(r.timeout),
                       missing.size() > 1 ? "ranks" : "rank", fmt::join(missing, ", "), r.world_size));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

c10::intrusive_ptr<c10d::Store> meet_in_store(const Rendezvous& r) {
  auto store = c10::make_intrusive<c10d::PrefixStore>("wanpar" + r.run, open_store(r));
  store->setTimeout(r.timeout);
  report_and_wait(*store, r);
  return store;
}

}  // namespace wanpar

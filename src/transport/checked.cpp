#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <string_view>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/checked.hpp>

#include "core/flat.hpp"
#include "core/hash.hpp"

namespace wanpar {
namespace {

/// What one rank tells another of its next call: a text that must be equal on both sides, and where the call
/// stands.
struct Record {
  static constexpr size_t kBytes = 1024;
  static constexpr const char* kFailed = "failed";  // in the place of the hash
  std::string same, site;
  bool has_failed = false;  ///< it makes no call, and `same` says why; `site` is the number of the forward

  at::Tensor pack() const {
    auto tensor = at::zeros({kBytes}, at::kByte);
    auto hash = has_failed ? kFailed : fmt::format("{:016x}", static_cast<uint64_t>(stable_hash(same)));
    auto text = fmt::format("{}\n{}\n", hash, site);
    text += same.substr(0, kBytes - 1 - text.size());
    std::memcpy(tensor.data_ptr(), text.data(), text.size());
    return tensor;
  }
  static std::string text(const at::Tensor& packed) { return static_cast<const char*>(packed.data_ptr()); }
};

/// `hash, site, same` of a packed record.
std::array<std::string, 3> fields(const at::Tensor& packed) {
  auto text = Record::text(packed);
  auto first = text.find('\n'), second = text.find('\n', first + 1);
  return {text.substr(0, first), text.substr(first + 1, second - first - 1), text.substr(second + 1)};
}

/// What crosses between two ranks in one call, in both directions.
struct Flow {
  std::vector<std::string> out, in;
};

class Checked : public Transport {
 public:
  explicit Checked(std::shared_ptr<Transport> inner) : inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string device() const override { return inner_->device(); }
  bool begins_together() const override { return true; }

  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override {
    agree(call, all());
    return inner_->all_reduce(out, in, call);
  }
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    agree(call, all());
    return inner_->all_gather(out, in, counts, call);
  }
  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    agree(call, all());
    return inner_->reduce_scatter(out, in, counts, call);
  }
  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    auto flows = all();
    for (auto& [peer, flow] : flows) {
      flow.out.push_back(fmt::format("{} bytes", in_counts[peer]));
      flow.in.push_back(fmt::format("{} bytes", out_counts[peer]));
    }
    // The sizes are what differs by rank where a caller packs for itself; the bytes of each pair say the
    // same.
    auto common = call;
    common.sizes.clear();
    if (call.shape.empty())
      agree(common, flows);
    else
      agree(call, flows);
    return inner_->all_to_all(out, in, out_counts, in_counts, call);
  }
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    agree(call, all());
    return inner_->broadcast(tensor, call);
  }
  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    std::map<int, Flow> flows;
    auto what = [](const Message& m) { return fmt::format("{}{}", c10::toString(m.dtype), m.shape); };
    for (auto& message : sends) flows[message.peer].out.push_back(what(message));
    for (auto& message : receives) flows[message.peer].in.push_back(what(message));
    // Peers that agree have begun: they have what they wait for, though another peer makes an end of the
    // call.
    if (auto found = compare(call, flows); !found.peers.empty()) {
      auto is_with = [&](const Message& message) { return found.peers.contains(message.peer); };
      std::erase_if(sends, is_with);
      std::erase_if(receives, is_with);
      to_be_ended_.push_back(inner_->exchange(std::move(sends), std::move(receives), call));
      refuse(found, call, found.peers);
    }
    return inner_->exchange(std::move(sends), std::move(receives), call);
  }
  std::shared_ptr<Work> barrier(const Call& call) override {
    agree(call, all());
    return inner_->barrier(call);
  }
  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override {
    std::map<int, Flow> flows;
    for (auto peer : members)
      if (peer != rank()) flows[peer] = {};
    agree(call, flows);
    return checked(inner_->split(members, call));
  }

  /// A rank that has failed takes part in the next comparison with each of the others, and says so there:
  /// every pair of ranks has traded as many records as before, so all can go on together. What the others
  /// were about to do is nothing to this rank, and it waits for their records before its own next call only.
  void fail(const std::string& why, const Call& call) override {
    if (!std::exchange(all_know_, false)) tell(why, call, {});
  }

 private:
  std::map<int, Flow> all() const {
    std::map<int, Flow> flows;
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) flows[peer] = {};
    return flows;
  }

  /// The call as both ranks of a pair must see it: what flows is told from the lower rank's side.
  Record record(const Call& call, int peer, const Flow& flow) const {
    auto text = describe(call);
    auto cut = text.rfind(", called at ");
    Record record{text.substr(0, cut), text.substr(cut + 2)};
    if (flow.out.empty() && flow.in.empty()) return record;
    bool lower = rank() < peer;
    auto& up = lower ? flow.out : flow.in;
    auto& down = lower ? flow.in : flow.out;
    if (call.operation == Operation::exchange)
      record.same = call.about.empty() ? "exchange" : "exchange of " + call.about;
    record.same += fmt::format(" [{0} to {1}: {2}; {1} to {0}: {3}]", std::min(rank(), peer),
                               std::max(rank(), peer), fmt::join(up, " + "), fmt::join(down, " + "));
    return record;
  }

  /// What this rank says to each of those with whom it trades, and room for what they say.
  template <class Say>
  std::pair<std::vector<Message>, std::vector<Message>> records(const std::map<int, Flow>& flows,
                                                                const Say& say) const {
    std::vector<Message> sends, receives;
    auto place = home(*this);
    for (auto& [peer, flow] : flows) {
      sends.push_back({say(peer, flow).pack().to(place), peer});
      receives.push_back({at::empty({Record::kBytes}, at::TensorOptions(at::kByte).device(place)), peer});
    }
    return {std::move(sends), std::move(receives)};
  }

  /// The peers that have failed, or make another call, and what is to be said of the first of them.
  struct Disagreement {
    std::set<int> peers = {};
    std::exception_ptr error = {};
  };

  Disagreement compare(const Call& call, const std::map<int, Flow>& flows) {
    for (; !to_be_ended_.empty(); to_be_ended_.pop_front()) to_be_ended_.front()->wait();
    all_know_ = false;
    auto [sends, receives] = records(flows, [&](int peer, auto& flow) { return record(call, peer, flow); });
    std::map<int, std::array<std::string, 3>> ours;
    for (auto& message : sends) ours[message.peer] = fields(message.tensor.cpu());
    inner_->exchange(std::move(sends), receives, call)->wait();

    Disagreement found;
    std::exception_ptr other_call;
    std::map<int, Flow> again;
    for (auto& message : receives) {
      auto peer = message.peer;
      auto [our_hash, our_site, our_call] = ours[peer];
      auto [hash, site, what] = fields(message.tensor.cpu());
      if (hash == our_hash) continue;
      // It failed at the end of a forward that had all it needed here, and comes to this call like the
      // others.
      if (hash == Record::kFailed && std::stoull(site) < call.forward) {
        again[peer] = flows.at(peer);
        continue;
      }
      found.peers.insert(peer);
      if (hash == Record::kFailed) {
        if (!found.error) found.error = std::make_exception_ptr(AgreedError(what));
      } else if (!other_call) {
        other_call = std::make_exception_ptr(MismatchError(fmt::format(
            "rank {} and rank {} of {} make different calls: rank {} {}, {}; rank {} {}, {}; every rank must "
            "make the same calls in the same order",
            rank(), peer, size(), rank(), our_call, our_site, peer, what, site)));
      }
    }
    if (!found.error) found.error = other_call;
    if (!again.empty()) {
      auto more = compare(call, again);
      found.peers.merge(more.peers);
      if (!found.error) found.error = more.error;
    }
    return found;
  }

  /// For calls in which each of these ranks is compared with each other one: where one disagrees, all see it.
  void agree(const Call& call, const std::map<int, Flow>& flows) {
    auto found = compare(call, flows);
    if (found.peers.empty()) return;
    std::set<int> concerned;
    for (auto& [peer, flow] : flows) concerned.insert(peer);
    refuse(found, call, concerned);
  }

  /// Makes an end of a call: those who do not know of it are told at their next call with this rank.
  [[noreturn]] void refuse(const Disagreement& found, const Call& call, const std::set<int>& who_know) {
    try {
      std::rethrow_exception(found.error);
    } catch (const Error& error) {
      tell(error.what(), call, who_know);
      all_know_ = true;
      throw;
    }
  }

  void tell(const std::string& why, const Call& call, const std::set<int>& who_know) {
    auto flows = all();
    for (auto peer : who_know) flows.erase(peer);
    if (flows.empty()) return;
    auto [sends, receives] = records(flows, [&](int, auto&) {
      return Record{why, std::to_string(call.forward), true};
    });
    to_be_ended_.push_back(inner_->exchange(std::move(sends), std::move(receives), call));
  }

  std::shared_ptr<Transport> inner_;
  bool all_know_ = false;                          // that the last call came to nothing
  std::deque<std::shared_ptr<Work>> to_be_ended_;  // before the next call
};

}  // namespace

std::shared_ptr<Transport> checked(std::shared_ptr<Transport> transport) {
  return std::make_shared<Checked>(std::move(transport));
}

}  // namespace wanpar

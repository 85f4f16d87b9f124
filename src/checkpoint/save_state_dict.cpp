#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/strides.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <set>
#include <system_error>
#include <wanpar/checkpoint/state_dict.hpp>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/new_file.hpp>
#include <wanpar/extend/files/part_file.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/files/safetensors.hpp>

#include "checkpoint/checkpoint_files.hpp"
#include "checkpoint/checkpoint_layout.hpp"
#include "checkpoint/named_state.hpp"
#include "module/same_values.hpp"

namespace wanpar {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The tensors of a rank, and their description for the others.
struct Having {
  std::map<std::string, at::Tensor> tensors;
  std::vector<HeldPiece> pieces;
  json groups;
};

HeldPiece piece_of(const NamedTensor& item) {
  auto& x = item.tensor;
  HeldPiece piece{.name = item.name, .dtype = c10::toString(x.scalar_type()), .sizes = {}, .strides = {}};
  piece.count = x.numel();
  if (item.shard) {
    piece.sizes = item.shard->sizes, piece.strides = item.shard->strides, piece.begin = item.shard->begin;
    return piece;
  }
  const auto strides = c10::contiguous_strides(x.sizes());  // memory order in the file
  piece.sizes = x.sizes().vec(), piece.strides.assign(strides.begin(), strides.end());
  return piece;
}

Having having(const StateDict& state) {
  const NamedState named(state);
  Having all{.tensors = {}, .pieces = {}, .groups = named.groups()};
  auto add = [&](const NamedTensors& tensors, bool is_compared) {
    for (auto& item : tensors) {
      auto piece = piece_of(item);
      if (is_compared) {
        const auto digest = Digest::of(item.tensor);
        const auto numbers = digest.numbers.cpu();
        piece.digest.assign(numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + 2);
        piece.tolerance = digest.tolerance;
      }
      all.pieces.push_back(std::move(piece));
      all.tensors.emplace(item.name, item.tensor);
    }
  };
  add(named.tensors(), true);
  add(named.memories(), true);
  add(named.buffers(), false);
  return all;
}

/// Merges the optimizer groups of all ranks: parameters may differ by rank, options must not.
json joined(const std::vector<json>& of_ranks) {
  auto all = of_ranks[0];
  for (size_t rank = 1; rank < of_ranks.size(); ++rank) {
    auto refuse = [&](const std::string& what) {
      throw MismatchError(fmt::format("save_state_dict: ranks 0 and {} have {}", rank, what));
    };
    auto& theirs = of_ranks[rank];
    if (theirs.size() != all.size()) refuse(fmt::format("{} and {} optimizers", all.size(), theirs.size()));
    for (size_t i = 0; i < all.size(); ++i) {
      auto& groups = all[i]["groups"];
      auto& their_groups = theirs[i]["groups"];
      if (all[i]["class"] != theirs[i]["class"] || groups.size() != their_groups.size())
        refuse(fmt::format("optimizers of another class, or with other groups ({} {}, {} {})", groups.size(),
                           all[i]["class"].dump(), their_groups.size(), theirs[i]["class"].dump()));
      for (size_t group = 0; group < groups.size(); ++group) {
        if (groups[group]["options"] != their_groups[group]["options"])
          refuse(fmt::format("other options in group {} of {}: {} and {}", group, all[i]["class"].dump(),
                             groups[group]["options"].dump(), their_groups[group]["options"].dump()));
        auto& names = groups[group]["parameters"];
        std::set<std::string> known(names.begin(), names.end());
        for (auto& name : their_groups[group]["parameters"])
          if (known.insert(name).second) names.push_back(name);
      }
    }
  }
  return all;
}

/// A temporary folder next to the final one, on the same disk.
fs::path make_part(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder.parent_path(), error);
  if (error) throw_write_error(folder, error.message().c_str());
  const bool is_free = !fs::exists(folder) || (fs::is_directory(folder) && fs::is_empty(folder));
  if (!is_free && !is_checkpoint(folder))
    throw Error(
        fmt::format("{} cannot be written: what is there is no checkpoint; name another folder, or remove it",
                    folder.string()));
  for (int number = 0;; ++number) {
    auto part = folder.parent_path() / fmt::format(".wanpar.{}-{}.part", ::getpid(), number);
    if (fs::create_directory(part, error)) return part;
    if (error) throw_write_error(folder, error.message().c_str());
  }
}

/// Renames a complete folder to its final name, replacing an existing one.
void name_folder(const fs::path& part, const fs::path& folder) {
  const int descriptor = ::open(part.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor >= 0) ::fsync(descriptor), ::close(descriptor);
  std::error_code error;
  if (!fs::exists(folder)) {
    fs::rename(part, folder, error);
  } else if (::renameat2(AT_FDCWD, part.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(part, error);
  } else {  // file systems without atomic exchange: in two steps
    const fs::path former = part.string() + ".former";
    fs::rename(folder, former);
    fs::rename(part, folder, error);
    if (error) fs::rename(former, folder);
    if (!error) fs::remove_all(former, error);
  }
  if (error) throw_write_error(folder, error.message().c_str());
}

}  // namespace

void save_state_dict(const StateDict& state, const fs::path& given, const Communicator& world) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  const auto folder = target_of(given);
  Having mine;
  all_or_none(world, [&] { mine = having(state); });

  std::vector<std::vector<HeldPiece>> pieces;
  std::vector<json> groups;
  for (auto& text :
       all_gather_text(world, json{{"pieces", json_of(mine.pieces)}, {"groups", mine.groups}}.dump())) {
    auto said = json::parse(text);
    pieces.push_back(pieces_from(said["pieces"]));
    groups.push_back(std::move(said["groups"]));
  }
  const auto tensors = who_writes_what(pieces);  // equal input on all ranks: all throw or none
  const json index{{"format", kCheckpointFormat},
                   {"ranks", world.size()},
                   {"tensors", json_of(tensors)},
                   {"optimizers", joined(groups)}};

  const fs::path part = broadcast_text(world, 0, [&] { return make_part(folder).string(); });
  try {
    all_or_none(world, [&] {
      std::map<std::string, at::Tensor> own;
      for (auto& [name, tensor] : tensors)
        for (auto& chunk : tensor.chunks)
          if (chunk.rank == world.rank()) own.emplace(name, mine.tensors.at(name));
      write_safetensors(part / checkpoint_file(world.rank(), world.size()), own);
    });
    all_or_none(world, [&] {
      if (world.rank() > 0) return;
      write_text(part / kCheckpointIndex, index.dump(1) + "\n");
      name_folder(part, folder);
    });
  } catch (...) {
    std::error_code ignored;
    if (world.rank() == 0) fs::remove_all(part, ignored);
    throw;
  }
}

}  // namespace wanpar

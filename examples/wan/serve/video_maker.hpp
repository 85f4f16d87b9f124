#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/mesh.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "wan/generate/job.hpp"
#include "wan/generate/outputs.hpp"
#include "wan/generate/shared_transformer.hpp"
#include "wan/generate/stop.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/io/progress.hpp"
#include "wan/pipeline/sampling.hpp"
#include "wan/vae/decoder.hpp"

namespace wan::serve {

/// Makes videos on a rank, job after job: holds the networks, which stay loaded unless they are offloaded,
/// and the rank's place in the mesh of a job. If the next job has other degrees, the ranks are regrouped, and
/// load the weights that they lack.
class VideoMaker {
 public:
  VideoMaker(wanpar::Communicator world, at::Device device, SharedTransformer& shared, bool are_kept)
      : world_(std::move(world)), device_(device), shared_(shared), are_kept_(are_kept) {}

  /// Callbacks of a job, and how it can be stopped. Ranks other than the first have no progress.
  struct Watch {
    Progress* progress = nullptr;
    std::function<void(const Step& step)> stepped = {};
    Stop* stop = nullptr;
    std::function<void(const Result& result)> finished = {};  ///< on the first rank
  };

  /// Collective. Loads what jobs like this one need.
  void load(const Job& job, int64_t ranks);
  /// Collective over all ranks, of which the first `ranks` make the video. Throws on all of these if one
  /// fails, or the job is stopped.
  void make(const Job& job, int64_t ranks, uint64_t seed, const Watch& watch);
  /// Regroups the ranks for the next job: after a failure connections may be broken.
  void part() { team_.reset(), places_.clear(); }

  const Vae& vae() const { return vae_; }

 private:
  struct Team {
    wanpar::Communicator group;
    wanpar::Mesh mesh;
    std::optional<ParallelTransformer> transformer = {};
  };

  bool meet(const Job& job, int64_t ranks);
  void load_transformer(const Job& job);
  void make_here(const Job& job, uint64_t seed, const Watch& watch);

  wanpar::Communicator world_;
  at::Device device_;
  SharedTransformer& shared_;
  bool are_kept_;
  std::string places_;        // the degrees for which they are grouped
  std::optional<Team> team_;  // nullopt if this rank takes no part
  std::optional<wanpar::Model> text_encoder_;
  std::string text_encoder_of_;
  Transformer whole_{nullptr};  // stays loaded while the ranks are regrouped
  Vae vae_{nullptr};
};

}  // namespace wan::serve

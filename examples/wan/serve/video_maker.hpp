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

/// What a rank makes videos with, job after job: its networks, which stay where they are not to be offloaded,
/// and its place among the ranks of a job. Where the next job wants other degrees, the ranks take other
/// places, and load what of the weights they lack.
class VideoMaker {
 public:
  VideoMaker(wanpar::Communicator world, at::Device device, SharedTransformer& shared, bool are_kept)
      : world_(std::move(world)), device_(device), shared_(shared), are_kept_(are_kept) {}

  /// Who hears of a job, and may end it. On ranks other than the first there is no progress.
  struct Watch {
    Progress* progress = nullptr;
    std::function<void(const Step& step)> stepped = {};
    Stop* stop = nullptr;
    std::function<void(const Result& result)> finished = {};  ///< on the first rank
  };

  /// Collective. Makes ready for jobs like this one.
  void load(const Job& job, int64_t ranks);
  /// Collective over all ranks, of which the first `ranks` make the video. Throws on all of these where one
  /// fails, or the job is stopped.
  void make(const Job& job, int64_t ranks, uint64_t seed, const Watch& watch);
  /// Places are taken anew for the next job: after a failure connections may be broken.
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
  std::string places_;        // of which jobs
  std::optional<Team> team_;  // none where this rank has no place
  std::optional<wanpar::Model> text_encoder_;
  std::string text_encoder_of_;
  Transformer whole_{nullptr};  // stays while its ranks take other places
  Vae vae_{nullptr};
};

}  // namespace wan::serve

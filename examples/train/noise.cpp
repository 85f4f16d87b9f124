#include "train/noise.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <vector>

#include "train/random.hpp"

namespace wan::train {

at::Tensor noise_for(const Share& share, at::IntArrayRef shape, uint64_t seed, Stream stream,
                     at::Device device) {
  auto generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(Random(seed, stream, static_cast<uint64_t>(share.step)).next() >> 1);
  std::vector<int64_t> all = {share.all};
  all.insert(all.end(), shape.begin(), shape.end());
  return at::randn(all, generator, at::dtype(at::kFloat).device(device)).narrow(0, share.first, share.count);
}

}  // namespace wan::train

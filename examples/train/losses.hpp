#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace wan::train {

/// The losses of a training, a line of CSV a step: the number of the step, then what `columns` name. Lines
/// are there as soon as they are added.
class LossFile {
 public:
  /// Goes on behind step `last`; later lines, of steps that were lost, are removed.
  LossFile(const std::filesystem::path& file, std::vector<std::string> columns, int64_t last);

  void add(int64_t step, const std::vector<double>& values);

  /// Writes the first column over all steps as an SVG plot, its axis logarithmic.
  void plot(const std::filesystem::path& file) const;

 private:
  void check() const;

  std::filesystem::path file_;
  std::vector<std::string> columns_;
  std::vector<std::pair<int64_t, double>> curve_;
  std::ofstream stream_;
};

}  // namespace wan::train
